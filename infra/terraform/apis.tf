# The APIs that are used. They stay on after a tear-down: something else in the project may need them.

locals {
  apis = concat(
    [
      "artifactregistry.googleapis.com",
      "cloudbuild.googleapis.com",
      "cloudfunctions.googleapis.com",
      "cloudscheduler.googleapis.com",
      "cloudtasks.googleapis.com",
      "iam.googleapis.com",
      "logging.googleapis.com",
      "monitoring.googleapis.com",
      "run.googleapis.com",
      "secretmanager.googleapis.com",
      "sqladmin.googleapis.com",
      "storage.googleapis.com",
    ],
    local.has_vpc ? ["compute.googleapis.com"] : [],
    var.network == "private" ? ["servicenetworking.googleapis.com"] : [],
    local.has_redis ? ["redis.googleapis.com"] : [],
    var.kms_key != null ? ["cloudkms.googleapis.com"] : [],
  )
}

resource "google_project_service" "api" {
  for_each           = toset(local.apis)
  service            = each.key
  disable_on_destroy = false
}
