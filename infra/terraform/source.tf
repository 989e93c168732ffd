# What is deployed: one archive for all functions, named by its content, with nothing in it but what they import.

locals {
  # shared/migrations and shared/tables.py belong to `python -m ops migrate`.
  source_files = setsubtract(
    setunion(
      ["main.py", "requirements.txt"],
      fileset(local.root, "functions/**/*.{py,sql}"),
      fileset(local.root, "shared/**/*.{py,sql}"),
    ),
    setunion(["shared/tables.py"], fileset(local.root, "shared/migrations/**")),
  )
  # The health check reckons with the declaration, so the deployed one says what this installation changed.
  declaration = length(var.schedules) + length(var.attempts) + length(var.shards) == 0 ? file("${local.root}/functions/jobs.json") : jsonencode([
    for job in jsondecode(file("${local.root}/functions/jobs.json")) :
    merge(job, local.changed[job.name], local.shards[job.name] == try(job.shards, 1) ? {} : { shards = local.shards[job.name] })
  ])
}

data "archive_file" "source" {
  type             = "zip"
  output_path      = "${path.module}/build/source.zip"
  output_file_mode = "0644"

  dynamic "source" {
    for_each = local.source_files
    content {
      filename = source.value
      content  = file("${local.root}/${source.value}")
    }
  }
  source {
    filename = "functions/jobs.json"
    content  = local.declaration
  }
}

resource "google_storage_bucket" "source" {
  #checkov:skip=CKV_GCP_62:Nothing but a copy of this repository is in it
  #checkov:skip=CKV_GCP_63:See CKV_GCP_62
  #checkov:skip=CKV_GCP_78:Names carry their content's sha256, so nothing is ever overwritten
  name                        = "${var.project_id}-maintenance-source"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  # It holds nothing that a checkout of this repository does not.
  force_destroy = true

  dynamic "encryption" {
    for_each = var.kms_key[*]
    content {
      default_kms_key_name = encryption.value
    }
  }

  depends_on = [google_project_service.api, google_kms_crypto_key_iam_member.service_agent]
}

resource "google_storage_bucket_object" "source" {
  name   = "source-${data.archive_file.source.output_sha256}.zip"
  bucket = google_storage_bucket.source.name
  source = data.archive_file.source.output_path

  lifecycle {
    create_before_destroy = true
  }
}

resource "google_artifact_registry_repository" "images" {
  #checkov:skip=CKV_GCP_84:A key of one's own is a choice: kms_key
  repository_id = "maintenance-functions"
  location      = var.region
  format        = "DOCKER"
  description   = "Images of the maintenance functions"
  kms_key_name  = var.kms_key

  cleanup_policies {
    id     = "keep-recent"
    action = "KEEP"
    most_recent_versions {
      keep_count = 3
    }
  }
  cleanup_policies {
    id     = "delete-old"
    action = "DELETE"
    condition {
      older_than = "2592000s"
    }
  }

  depends_on = [google_project_service.api, google_kms_crypto_key_iam_member.service_agent]
}
