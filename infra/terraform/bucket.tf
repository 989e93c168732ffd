# The service's bucket: made here, or an existing one; and what the functions may do in it.

locals {
  make_bucket = var.existing_bucket == null
  bucket      = local.make_bucket ? google_storage_bucket.files[0].name : var.existing_bucket
}

resource "google_storage_bucket" "files" {
  #checkov:skip=CKV_GCP_62:Access is in Cloud Audit Logs where the project turns them on
  #checkov:skip=CKV_GCP_63:See CKV_GCP_62
  #checkov:skip=CKV_GCP_78:What was erased must go: soft delete keeps it for a week, a version would keep it for good
  count                       = local.make_bucket ? 1 : 0
  name                        = "${var.project_id}-files"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = !var.deletion_protection

  # What was deleted can be brought back for a week. Records of erasures say so.
  soft_delete_policy {
    retention_duration_seconds = 604800
  }

  # A backstop: artifact_cleanup deletes these long before.
  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      age            = max(30, 2 * tonumber(local.settings.ARTIFACT_RETENTION_DAYS))
      matches_prefix = ["temp_uploads/"]
    }
  }

  dynamic "encryption" {
    for_each = var.kms_key[*]
    content {
      default_kms_key_name = encryption.value
    }
  }

  depends_on = [google_project_service.api, google_kms_crypto_key_iam_member.service_agent]
}

# List and delete, and read the bucket's own policies; not the objects: no predefined role is that small.
resource "google_project_iam_custom_role" "cleaner" {
  role_id     = "maintenanceCleaner"
  title       = "Maintenance cleaner"
  description = "Lists and deletes objects without reading them, and reads the bucket's retention policies"
  permissions = ["storage.buckets.get", "storage.objects.delete", "storage.objects.list"]
  depends_on  = [google_project_service.api]
}

resource "google_storage_bucket_iam_member" "cleaner" {
  for_each = { for name, job in local.jobs : name => job if contains(job.needs, "gcs") }
  bucket   = local.bucket
  # Not the role's id, which a plan does not know yet.
  role   = "projects/${var.project_id}/roles/${google_project_iam_custom_role.cleaner.role_id}"
  member = google_service_account.function[each.key].member
}
