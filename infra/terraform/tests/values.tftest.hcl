# What becomes of values that are given, in an installation that is not there yet.

mock_provider "google" {}

variables {
  project_id        = "demo-project"
  region            = "europe-west1"
  stripe_meter_id   = "mtr_1"
  stripe_secret_key = "sk_test_not_a_real_key"
  alert_emails      = ["ops@example.com"]
}

run "a_redis_with_two_certificates" {
  command = plan
  override_resource {
    target          = google_redis_instance.locks[0]
    override_during = plan
    values = {
      host            = "10.0.0.3"
      auth_string     = "x"
      server_ca_certs = [{ cert = "the one in use" }, { cert = "the next one" }]
    }
  }
  assert {
    condition     = alltrue([for environment in local.environments : environment.REDIS_CA_CERT == "the one in use\nthe next one"])
    error_message = "A function trusts both, so that Google can change from the one to the other."
  }
}

run "in_report_mode_nothing_waits" {
  command = plan
  assert {
    condition     = [for condition in google_monitoring_alert_policy.counted["overdue"].conditions : condition.display_name] == ["more than three runs of a day without Redis", "overdue", "a firing ran out of steps"] && keys(google_monitoring_alert_policy.counted) == ["failed", "money", "overdue"]
    error_message = "What may not be sent or deleted is no news."
  }
}

run "values_as_the_code_takes_them" {
  command = plan
  variables {
    schedules = { period_reset = null }
    settings  = { ABANDONED_AFTER_DAYS = " 60 ", ARTIFACT_RETENTION_DAYS = "" }
    attempts  = { period_reset = { timeout_seconds = 600, retries = null } }
    database  = { edition = "ENTERPRISE_PLUS", tier = "db-perf-optimized-N-2", disk_gb = 20 }
    redis     = { memory_gb = 2 }
  }
  assert {
    condition     = local.environments.abandoned_cleanup.ABANDONED_AFTER_DAYS == "60" && local.environments.artifact_cleanup.ARTIFACT_RETENTION_DAYS == "7"
    error_message = "Blanks around a value are no part of it, and an empty one counts as not set."
  }
  assert {
    condition     = local.jobs.period_reset.timeout_seconds == 600 && local.jobs.period_reset.retries == 3 && local.jobs.period_reset.schedule == "30 0 * * *"
    error_message = "What is null is as declared."
  }
  assert {
    condition     = google_sql_database_instance.main[0].settings[0].disk_size == 20 && google_sql_database_instance.main[0].database_version == "POSTGRES_16" && google_redis_instance.locks[0].memory_size_gb == 2 && google_redis_instance.locks[0].tier == "BASIC"
    error_message = "What is left out of database and redis is as described."
  }
}

run "nobody_is_told" {
  command = plan
  variables {
    alert_emails = []
  }
  expect_failures = [check.somebody_is_told]
}
