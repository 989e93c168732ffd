# An account for each function, one that fires them, one that builds them. What else an account may do stands beside the
# thing: bucket.tf, secrets.tf, scheduler.tf.

resource "google_service_account" "function" {
  for_each     = local.jobs
  account_id   = "fn-${local.slugs[each.key]}"
  display_name = "Function ${local.slugs[each.key]}"
  description  = each.value.description
  depends_on   = [google_project_service.api]

  lifecycle {
    precondition {
      condition     = length("fn-${local.slugs[each.key]}") <= 30
      error_message = "The job ${each.key} has too long a name: its account fn-${local.slugs[each.key]} has more than the 30 characters that Google allows."
    }
  }
}

# Connecting to this instance and logging in to it; to no other in the project.
resource "google_project_iam_member" "database" {
  for_each = {
    for pair in setproduct(keys(local.jobs), ["cloudsql.client", "cloudsql.instanceUser"]) : "${pair[0]} ${pair[1]}" => pair
  }
  project = var.project_id
  role    = "roles/${each.value[1]}"
  member  = google_service_account.function[each.value[0]].member
  condition {
    title      = "maintenance-database-only"
    expression = "resource.service == 'sqladmin.googleapis.com' && resource.name == 'projects/${var.project_id}/instances/${local.database_instance}'"
  }
}

resource "google_service_account" "invoker" {
  account_id   = "maintenance-invoker"
  display_name = "Cloud Scheduler's calls to the maintenance functions"
  depends_on   = [google_project_service.api]
}

resource "google_service_account" "build" {
  account_id   = "maintenance-build"
  display_name = "Builds the maintenance functions"
  depends_on   = [google_project_service.api]
}

resource "google_project_iam_member" "build_log" {
  project = var.project_id
  role    = "roles/logging.logWriter"
  member  = google_service_account.build.member
}

# The build reads our archive, or the copy of it in the bucket that Cloud Functions makes; never the users' files.
resource "google_project_iam_member" "build_source" {
  project = var.project_id
  role    = "roles/storage.objectViewer"
  member  = google_service_account.build.member
  condition {
    title      = "maintenance-source-only"
    expression = "resource.name.startsWith('projects/_/buckets/gcf-v2-sources-${data.google_project.this.number}-${var.region}') || resource.name.startsWith('projects/_/buckets/${google_storage_bucket.source.name}')"
  }
}

resource "google_artifact_registry_repository_iam_member" "build" {
  repository = google_artifact_registry_repository.images.name
  location   = var.region
  role       = "roles/artifactregistry.writer"
  member     = google_service_account.build.member
}
