# Memorystore for Redis: made here, an existing instance, or none.

locals {
  default_redis = { tier = "BASIC", memory_gb = "1" }

  has_redis  = var.existing_redis != null || var.redis != null
  make_redis = local.has_redis && var.existing_redis == null
  redis      = !local.has_redis ? null : local.make_redis ? google_redis_instance.locks[0] : data.google_redis_instance.existing[0]

  redis_tls     = local.make_redis || try(local.redis.transit_encryption_mode == "SERVER_AUTHENTICATION", false)
  redis_ca_cert = local.has_redis && local.redis_tls ? join("\n", local.redis.server_ca_certs[*].cert) : null
  redis_url = !local.has_redis ? null : format(
    "%s://%s%s:%d/0",
    local.redis_tls ? "rediss" : "redis",
    local.make_redis || try(local.redis.auth_enabled, false) ? ":${local.redis.auth_string}@" : "",
    local.redis.host,
    local.redis.port,
  )
}

resource "google_redis_instance" "locks" {
  count                   = local.make_redis ? 1 : 0
  name                    = "maintenance-locks"
  display_name            = "Locks and results of the maintenance jobs"
  region                  = var.region
  tier                    = merge(local.default_redis, var.redis).tier
  memory_size_gb          = tonumber(merge(local.default_redis, var.redis).memory_gb)
  redis_version           = "REDIS_7_2"
  authorized_network      = local.vpc
  connect_mode            = "DIRECT_PEERING"
  auth_enabled            = true
  transit_encryption_mode = "SERVER_AUTHENTICATION"
  customer_managed_key    = var.kms_key

  maintenance_policy {
    weekly_maintenance_window {
      day = "SUNDAY"
      start_time {
        hours = 6
      }
    }
  }

  depends_on = [google_project_service.api, google_kms_crypto_key_iam_member.service_agent]
}

data "google_redis_instance" "existing" {
  count  = local.has_redis && !local.make_redis ? 1 : 0
  name   = var.existing_redis
  region = var.region
}
