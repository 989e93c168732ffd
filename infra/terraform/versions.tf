terraform {
  # Write-only arguments, which keep the Stripe key out of the state, need 1.11.
  required_version = ">= 1.11, < 2.0"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 7.46, < 9.0"
    }
    archive = {
      source  = "hashicorp/archive"
      version = "~> 2.4"
    }
  }

  # Where the state is comes from the command line: terraform init -backend-config=bucket=…
  backend "gcs" {}
}

provider "google" {
  project        = var.project_id
  region         = var.region
  default_labels = merge({ app = "maintenance" }, var.labels)
}

data "google_project" "this" {}
