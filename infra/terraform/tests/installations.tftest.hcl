# The installations that there are: minimal, default, full, beside existing resources, with a key of one's own. Nothing
# here reaches Google: the provider is a stand-in wherever these tests run.

mock_provider "google" {}

variables {
  project_id        = "demo-project"
  region            = "europe-west1"
  stripe_meter_id   = "mtr_1"
  stripe_secret_key = "sk_test_not_a_real_key"
  alert_emails      = ["ops@example.com"]
}

run "minimal" {
  variables {
    redis    = null
    database = { tier = "db-g1-small" }
  }
  assert {
    condition     = length(google_cloudfunctions2_function.job) == length(local.declared) && length(google_cloud_scheduler_job.job) == length(local.declared)
    error_message = "One function and one Cloud Scheduler job for each entry of jobs.json."
  }
  assert {
    condition     = length(google_compute_network.vpc) == 0 && length(google_redis_instance.locks) == 0 && length(google_secret_manager_secret.redis) == 0
    error_message = "Without Redis, in the network \"connector\", there is no VPC."
  }
  assert {
    condition     = alltrue([for f in google_cloudfunctions2_function.job : length(f.service_config[0].direct_vpc_network_interface) == 0])
    error_message = "No function has an egress into a VPC that is not there."
  }
  assert {
    condition     = google_sql_database_instance.main[0].settings[0].ip_configuration[0].ipv4_enabled && length(google_sql_database_instance.main[0].settings[0].ip_configuration[0].authorized_networks) == 0 && google_sql_database_instance.main[0].settings[0].connector_enforcement == "REQUIRED"
    error_message = "The public address admits nobody but the connector."
  }
  assert {
    condition     = google_sql_database_instance.main[0].settings[0].edition == "ENTERPRISE" && google_sql_database_instance.main[0].settings[0].tier == "db-g1-small"
    error_message = "Edition and tier are explicit."
  }
}

run "default" {
  assert {
    condition     = google_redis_instance.locks[0].auth_enabled && google_redis_instance.locks[0].transit_encryption_mode == "SERVER_AUTHENTICATION" && google_redis_instance.locks[0].tier == "BASIC"
    error_message = "Redis has a password, TLS and an explicit tier."
  }
  assert {
    condition     = length(google_compute_network.vpc) == 1 && length(google_service_networking_connection.services) == 0
    error_message = "Redis brings a VPC, and only a private database brings private service access."
  }
  assert {
    condition     = alltrue([for f in google_cloudfunctions2_function.job : f.service_config[0].direct_vpc_egress == "VPC_EGRESS_PRIVATE_RANGES_ONLY" && f.service_config[0].environment_variables.MAINTENANCE_MODE == "report"])
    error_message = "Egress for private ranges only; the first runs only report."
  }
  assert {
    condition     = alltrue([for f in google_cloudfunctions2_function.job : f.service_config[0].ingress_settings == "ALLOW_INTERNAL_ONLY" && f.service_config[0].max_instance_request_concurrency == 4 && f.service_config[0].available_cpu == "1" && f.service_config[0].max_instance_count == 2])
    error_message = "Internal only; four requests at a time on one CPU, on two instances at most."
  }
  assert {
    condition     = google_storage_bucket.files[0].uniform_bucket_level_access && google_storage_bucket.files[0].public_access_prevention == "enforced" && !google_storage_bucket.files[0].force_destroy
    error_message = "The bucket is closed to the public, and Terraform does not empty it."
  }
}

run "full" {
  variables {
    network        = "private"
    mode           = "enforce"
    database       = { tier = "db-custom-2-7680", availability = "REGIONAL", disk_gb = 100 }
    redis          = { tier = "STANDARD_HA" }
    settings       = { ABANDONED_AFTER_DAYS = "60", STRIPE_TAKEOVER_AT = "2026-12-01T00:00:00Z" }
    schedules      = { stripe_reconcile = "*/30 * * * *" }
    attempts       = { stripe_reconcile = { timeout_seconds = 600, retries = 1 } }
    paused_jobs    = ["artifact_cleanup"]
    alert_emails   = ["ops@example.com", "boss@example.com"]
    alert_channels = ["projects/demo-project/notificationChannels/1"]
  }
  assert {
    condition     = !google_sql_database_instance.main[0].settings[0].ip_configuration[0].ipv4_enabled && length(google_service_networking_connection.services) == 1
    error_message = "A private database has no public address, and the VPC private service access."
  }
  assert {
    condition     = google_cloud_scheduler_job.job["stripe_reconcile"].schedule == "*/30 * * * *" && google_cloud_scheduler_job.job["stripe_reconcile"].attempt_deadline == "690s"
    error_message = "The schedule is the installation's own, the deadline its timeout and 90 s."
  }
  assert {
    condition     = jsonencode([for job in jsondecode(local.declaration) : [job.schedule, job.timeout_seconds, job.retries] if job.name == "stripe_reconcile"]) == jsonencode([["*/30 * * * *", 600, 1]])
    error_message = "The deployed declaration says what this installation changed."
  }
  assert {
    condition     = strcontains(google_logging_metric.counter["backlog"].filter, "oldest_waiting_minutes>75")
    error_message = "The backlog's limit follows the schedule: two intervals and 15 minutes."
  }
  assert {
    condition     = google_cloud_scheduler_job.job["artifact_cleanup"].paused && !google_cloud_scheduler_job.job["period_reset"].paused
    error_message = "The jobs named are paused, the others say that they are not."
  }
  assert {
    condition     = google_cloudfunctions2_function.job["abandoned_cleanup"].service_config[0].environment_variables.ABANDONED_AFTER_DAYS == "60" && google_cloudfunctions2_function.job["period_reset"].service_config[0].environment_variables.ABANDONED_AFTER_DAYS == "60" && google_cloudfunctions2_function.job["stripe_reconcile"].service_config[0].environment_variables.STRIPE_TAKEOVER_AT == "2026-12-01T00:00:00Z"
    error_message = "Settings go to the functions that read them."
  }
  assert {
    condition     = length(google_monitoring_alert_policy.silent.notification_channels) == 3
    error_message = "Two addresses and one channel are told."
  }
}

run "beside_existing_resources" {
  # terraform test cannot take an ephemeral variable away again before an apply.
  command = plan
  variables {
    existing_database      = "main"
    existing_redis         = "main"
    existing_bucket        = "files-prod"
    existing_network       = { network = "projects/demo-project/global/networks/main", subnetwork = "projects/demo-project/regions/europe-west1/subnetworks/main" }
    existing_stripe_secret = { secret_id = "stripe", version = "7" }
    stripe_secret_key      = null
  }
  override_data {
    target = data.google_sql_database_instance.existing[0]
    values = {
      connection_name = "demo-project:europe-west1:main"
      settings        = [{ database_flags = [{ name = "cloudsql.iam_authentication", value = "on" }] }]
    }
  }
  override_data {
    target = data.google_redis_instance.existing[0]
    values = { host = "10.0.0.3", port = 6379, auth_enabled = false, transit_encryption_mode = "DISABLED" }
  }
  assert {
    condition     = length(google_sql_database_instance.main) + length(google_sql_database.service) + length(google_redis_instance.locks) + length(google_storage_bucket.files) + length(google_compute_network.vpc) + length(google_secret_manager_secret.stripe) == 0
    error_message = "What exists is not made."
  }
  assert {
    condition     = alltrue([for f in google_cloudfunctions2_function.job : f.service_config[0].environment_variables.CLOUD_SQL_INSTANCE == "demo-project:europe-west1:main" && !contains(keys(f.service_config[0].environment_variables), "REDIS_CA_CERT")])
    error_message = "The existing instance is used; a Redis without TLS has no certificate."
  }
  assert {
    condition     = local.redis_url == "redis://10.0.0.3:6379/0"
    error_message = "The existing Redis is reached as it is set up."
  }
  assert {
    condition     = google_cloudfunctions2_function.job["artifact_cleanup"].service_config[0].environment_variables.GCS_BUCKET_NAME == "files-prod" && google_storage_bucket_iam_member.cleaner["artifact_cleanup"].bucket == "files-prod"
    error_message = "The existing bucket is used."
  }
  assert {
    condition     = [for s in google_cloudfunctions2_function.job["stripe_reconcile"].service_config[0].secret_environment_variables : "${s.secret} ${s.version}" if s.key == "STRIPE_SECRET_KEY"] == ["stripe 7"]
    error_message = "The existing secret's version is pinned."
  }
}

run "with_a_key_of_ones_own" {
  variables {
    kms_key = "projects/demo-project/locations/europe-west1/keyRings/ring/cryptoKeys/key"
  }
  assert {
    condition = alltrue(concat(
      [for f in google_cloudfunctions2_function.job : f.kms_key_name == var.kms_key],
      [for b in [google_storage_bucket.files[0], google_storage_bucket.source] : b.encryption[0].default_kms_key_name == var.kms_key],
      [for s in [google_secret_manager_secret.stripe[0], google_secret_manager_secret.redis[0]] : s.replication[0].user_managed[0].replicas[0].customer_managed_encryption[0].kms_key_name == var.kms_key],
      [
        google_sql_database_instance.main[0].encryption_key_name == var.kms_key,
        google_redis_instance.locks[0].customer_managed_key == var.kms_key,
        google_artifact_registry_repository.images.kms_key_name == var.kms_key,
      ],
    ))
    error_message = "Everything that is made is encrypted with the key."
  }
  assert {
    condition     = length(google_kms_crypto_key_iam_member.service_agent) == 7
    error_message = "The accounts of all seven services may use the key."
  }
}
