# Two secrets at most: Stripe's key, and Redis's address with its password. Functions get pinned versions: a new version
# reaches them with the next apply, and never under a running job.

locals {
  stripe_jobs        = { for name, job in local.jobs : name => job if contains(job.needs, "stripe") }
  make_stripe_secret = var.existing_stripe_secret == null && length(local.stripe_jobs) > 0

  stripe_secret = local.make_stripe_secret ? {
    secret_id = google_secret_manager_secret.stripe[0].secret_id
    version   = google_secret_manager_secret_version.stripe[0].version
  } : var.existing_stripe_secret

  # The secrets of each function, by the name of the environment variable.
  secret_environments = {
    for name, job in local.jobs : name => merge(
      contains(keys(local.stripe_jobs), name) ? { STRIPE_SECRET_KEY = local.stripe_secret } : {},
      # Every job takes its lock in Redis.
      local.has_redis ? {
        REDIS_URL = {
          secret_id = google_secret_manager_secret.redis[0].secret_id
          version   = google_secret_manager_secret_version.redis[0].version
        }
      } : {},
    )
  }
}

resource "google_secret_manager_secret" "stripe" {
  count     = local.make_stripe_secret ? 1 : 0
  secret_id = "maintenance-stripe-secret-key"
  replication {
    user_managed {
      replicas {
        location = var.region
        dynamic "customer_managed_encryption" {
          for_each = var.kms_key[*]
          content {
            kms_key_name = customer_managed_encryption.value
          }
        }
      }
    }
  }
  depends_on = [google_project_service.api, google_kms_crypto_key_iam_member.service_agent]
}

resource "google_secret_manager_secret_version" "stripe" {
  count  = local.make_stripe_secret ? 1 : 0
  secret = google_secret_manager_secret.stripe[0].id
  # Write-only: it is sent to Google and is in neither plan nor state.
  secret_data_wo         = var.stripe_secret_key
  secret_data_wo_version = tostring(var.stripe_secret_key_revision)

  lifecycle {
    # The old version stays until the functions have the new one.
    create_before_destroy = true
  }
}

resource "google_secret_manager_secret_iam_member" "stripe" {
  for_each  = local.stripe_jobs
  secret_id = local.stripe_secret.secret_id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.function[each.key].member
}

resource "google_secret_manager_secret" "redis" {
  count     = local.has_redis ? 1 : 0
  secret_id = "maintenance-redis-url"
  replication {
    user_managed {
      replicas {
        location = var.region
        dynamic "customer_managed_encryption" {
          for_each = var.kms_key[*]
          content {
            kms_key_name = customer_managed_encryption.value
          }
        }
      }
    }
  }
  depends_on = [google_project_service.api, google_kms_crypto_key_iam_member.service_agent]
}

resource "google_secret_manager_secret_version" "redis" {
  count          = local.has_redis ? 1 : 0
  secret         = google_secret_manager_secret.redis[0].id
  secret_data_wo = local.redis_url
  # A number that changes with the address, so that a replaced instance reaches the functions. (The password itself
  # is in the state, as an attribute of the instance: guard the state.)
  secret_data_wo_version = tostring(parseint(substr(sha256(nonsensitive(local.redis_url)), 0, 8), 16))

  lifecycle {
    create_before_destroy = true
  }
}

resource "google_secret_manager_secret_iam_member" "redis" {
  for_each  = { for name, job in local.jobs : name => job if local.has_redis }
  secret_id = google_secret_manager_secret.redis[0].secret_id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.function[each.key].member
}
