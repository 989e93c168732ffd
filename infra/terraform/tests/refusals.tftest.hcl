# What each variable refuses. A run takes one wrong value of each variable, and each of them must be refused.

mock_provider "google" {}

variables {
  project_id        = "demo-project"
  region            = "europe-west1"
  stripe_meter_id   = "mtr_1"
  stripe_secret_key = "sk_test_not_a_real_key"
  alert_emails      = ["ops@example.com"]
}

run "refused_1" {
  command = plan
  variables {
    project_id                 = "Demo Project"
    region                     = "europe-west1-b"
    labels                     = { Team = "x" }
    mode                       = "dry"
    stripe_meter_id            = "pages"
    settings                   = { ABANDONED_DAYS = "3" }
    schedules                  = { nobody = "0 1 * * *" }
    attempts                   = { nobody = {} }
    shards                     = { nobody = 2 }
    paused_jobs                = ["nobody"]
    stripe_secret_key          = "pk_live_1"
    stripe_secret_key_revision = 0
    database                   = { edition = "STANDARD" }
    existing_database          = "p:r:main"
    database_name              = "p:r:main/db"
    redis                      = { tier = "HA" }
    existing_bucket            = "gs://files"
    network                    = "public"
    subnet_range               = "10.0.0.0/27"
    alert_emails               = ["nobody"]
    alert_channels             = ["123"]
  }
  expect_failures = [
    var.project_id,
    var.region,
    var.labels,
    var.mode,
    var.stripe_meter_id,
    var.settings,
    var.schedules,
    var.attempts,
    var.shards,
    var.paused_jobs,
    var.stripe_secret_key,
    var.stripe_secret_key_revision,
    var.database,
    var.existing_database,
    var.database_name,
    var.redis,
    var.existing_bucket,
    var.network,
    var.subnet_range,
    var.alert_emails,
    var.alert_channels,
  ]
}

run "refused_2" {
  command = plan
  variables {
    project_id                 = "123456789012"
    region                     = "eu"
    labels                     = { team = "A b" }
    mode                       = "Enforce"
    stripe_meter_id            = "mtr_"
    settings                   = { STRIPE_SECRET_KEY = "x" }
    attempts                   = { period_reset = { deadline_seconds = 14 } }
    shards                     = { period_reset = 2 }
    stripe_secret_key          = "sk_live_a b"
    stripe_secret_key_revision = 1.5
    database                   = { availability = "GLOBAL" }
    database_name              = ""
    redis                      = { memory_gb = 0 }
    subnet_range               = "10.0.0.0"
  }
  expect_failures = [
    var.project_id,
    var.region,
    var.labels,
    var.mode,
    var.stripe_meter_id,
    var.settings,
    var.attempts,
    var.shards,
    var.stripe_secret_key,
    var.stripe_secret_key_revision,
    var.database,
    var.database_name,
    var.redis,
    var.subnet_range,
  ]
}

run "refused_3" {
  command = plan
  variables {
    project_id             = "demo"
    region                 = "europe west1"
    settings               = { DB_USER = "postgres" }
    attempts               = { period_reset = { deadline_seconds = 1801 } }
    shards                 = { stripe_reconcile = 0 }
    existing_stripe_secret = { secret_id = "stripe", version = "latest" }
    stripe_secret_key      = null
    database               = { version = "MYSQL_8_0" }
    redis                  = { memory = 1 }
  }
  expect_failures = [
    var.project_id,
    var.region,
    var.settings,
    var.attempts,
    var.shards,
    var.existing_stripe_secret,
    var.database,
    var.redis,
  ]
}

run "refused_4" {
  command = plan
  variables {
    settings               = { ABANDONED_AFTER_DAYS = "0" }
    attempts               = { period_reset = { timeout_seconds = 1711 } }
    shards                 = { stripe_reconcile = 33 }
    existing_stripe_secret = { secret_id = "projects/p/secrets/s", version = "1" }
    stripe_secret_key      = null
    database               = { disk_gb = 5 }
    redis                  = { memory_gb = 1.5 }
    kms_key                = "key"
    existing_network       = { network = "main", subnetwork = "main" }
  }
  expect_failures = [
    var.settings,
    var.attempts,
    var.shards,
    var.existing_stripe_secret,
    var.database,
    var.redis,
    var.kms_key,
    var.existing_network,
  ]
}

run "refused_5" {
  command = plan
  variables {
    settings          = { STRIPE_TAKEOVER_AT = "2026-02-30T00:00:00Z" }
    attempts          = { period_reset = { timeout_seconds = 119 } }
    shards            = { stripe_reconcile = 2.5 }
    stripe_secret_key = ""
    database          = { disk = 100 }
    kms_key           = "projects/p/locations/us-east1/keyRings/r/cryptoKeys/k"
    existing_network  = { network = "projects/p/global/networks/n", subnetwork = "projects/p/regions/us-east1/subnetworks/s" }
  }
  expect_failures = [
    var.settings,
    var.attempts,
    var.shards,
    var.stripe_secret_key,
    var.database,
    var.kms_key,
    var.existing_network,
  ]
}

run "refused_6" {
  command = plan
  variables {
    attempts         = { period_reset = { retries = 6 } }
    database         = { edition = "ENTERPRISE_PLUS", tier = "db-g1-small" }
    existing_network = { network = "projects/p/global/networks/n", subnetwork = "projects/p/regions/europe-west1/subnetworks/s" }
    existing_redis   = "projects/p/locations/europe-west1/instances/main"
  }
  expect_failures = [
    var.attempts,
    var.database,
    var.existing_redis,
  ]
}

run "refused_7" {
  command = plan
  variables {
    attempts = { period_reset = { retries = -1 } }
    database = { edition = "ENTERPRISE_PLUS" }
  }
  expect_failures = [
    var.attempts,
    var.database,
  ]
}

run "refused_8" {
  command = plan
  variables {
    attempts       = { period_reset = { retries = 1.5 } }
    database       = { tier = "db-perf-optimized-N-2" }
    existing_redis = "main" # on which network?
  }
  expect_failures = [
    var.attempts,
    var.database,
    var.existing_redis,
  ]
}

run "refused_9" {
  command = plan
  variables {
    attempts = { period_reset = { timeout = 300 } }
    database = { disk_gb = "much" }
  }
  expect_failures = [
    var.attempts,
    var.database,
  ]
}

run "no_stripe_key_at_all" {
  command = plan
  variables {
    stripe_secret_key = null
  }
  expect_failures = [var.existing_stripe_secret]
}

run "two_stripe_keys" {
  command = plan
  variables {
    existing_stripe_secret = { secret_id = "stripe", version = "7" }
  }
  expect_failures = [var.existing_stripe_secret]
}
