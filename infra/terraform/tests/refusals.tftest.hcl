# What each variable refuses. A run takes one wrong value of each variable, and each of them must be refused.

mock_provider "google" {}

variables {
  project_id        = "demo-project"
  region            = "europe-west1"
  stripe_meter_id   = "mtr_1"
  stripe_secret_key = "sk_test_not_a_real_key"
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
    paused_jobs                = ["nobody"]
    stripe_secret_key          = "pk_live_1"
    stripe_secret_key_revision = 0
    database                   = { edition = "STANDARD" }
    existing_database          = "p:r:main"
    redis                      = { tier = "HA" }
    existing_bucket            = "gs://files"
    network                    = "public"
    subnet_range               = "10.0.0.0/27"
    existing_network           = { network = "main", subnetwork = "main" }
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
    var.paused_jobs,
    var.stripe_secret_key,
    var.stripe_secret_key_revision,
    var.database,
    var.existing_database,
    var.redis,
    var.existing_bucket,
    var.network,
    var.subnet_range,
    var.existing_network,
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
    schedules                  = { period_reset = "0 1 * *" }
    attempts                   = { period_reset = { deadline_seconds = 14 } }
    stripe_secret_key          = "sk_live_a b"
    stripe_secret_key_revision = 1.5
    database                   = { availability = "GLOBAL" }
    redis                      = { memory_gb = 0 }
    existing_redis             = "main"
    subnet_range               = "10.0.0.0"
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
    var.stripe_secret_key,
    var.stripe_secret_key_revision,
    var.database,
    var.redis,
    var.existing_redis,
    var.subnet_range,
  ]
}

run "refused_3" {
  command = plan
  variables {
    project_id             = "demo"
    region                 = "europe west1"
    settings               = { DB_USER = "postgres" }
    schedules              = { period_reset = "0 1 * * * *" }
    attempts               = { period_reset = { deadline_seconds = 1801 } }
    existing_stripe_secret = { secret_id = "stripe", version = "latest" }
    stripe_secret_key      = null
    database               = { version = "MYSQL_8_0" }
  }
  expect_failures = [
    var.project_id,
    var.region,
    var.settings,
    var.schedules,
    var.attempts,
    var.existing_stripe_secret,
    var.database,
  ]
}

run "refused_4" {
  command = plan
  variables {
    schedules              = { period_reset = "60 1 * * *" }
    attempts               = { period_reset = { timeout_seconds = 1711 } }
    existing_stripe_secret = { secret_id = "projects/p/secrets/s", version = "1" }
    stripe_secret_key      = null
    database               = { disk_gb = 5 }
    kms_key                = "key"
  }
  expect_failures = [
    var.schedules,
    var.attempts,
    var.existing_stripe_secret,
    var.database,
    var.kms_key,
  ]
}

run "refused_5" {
  command = plan
  variables {
    schedules = { period_reset = "0 24 * * *" }
    attempts  = { period_reset = { timeout_seconds = 119 } }
    kms_key   = "projects/p/locations/us-east1/keyRings/r/cryptoKeys/k"
  }
  expect_failures = [
    var.schedules,
    var.attempts,
    var.kms_key,
  ]
}

run "refused_6" {
  command = plan
  variables {
    schedules = { period_reset = "0 0 0 * *" }
    attempts  = { period_reset = { retries = 6 } }
  }
  expect_failures = [
    var.schedules,
    var.attempts,
  ]
}

run "refused_7" {
  command = plan
  variables {
    schedules = { period_reset = "0 0 * 13 *" }
    attempts  = { period_reset = { retries = -1 } }
  }
  expect_failures = [
    var.schedules,
    var.attempts,
  ]
}

run "refused_8" {
  command = plan
  variables {
    schedules = { period_reset = "0 0 * * 7" }
    attempts  = { period_reset = { retries = 1.5 } }
  }
  expect_failures = [
    var.schedules,
    var.attempts,
  ]
}

run "refused_9" {
  command = plan
  variables {
    schedules = { period_reset = "0 0 * * SUN" }
  }
  expect_failures = [
    var.schedules,
  ]
}

run "refused_10" {
  command = plan
  variables {
    schedules = { period_reset = "every 5 minutes" }
  }
  expect_failures = [
    var.schedules,
  ]
}

run "refused_11" {
  command = plan
  variables {
    schedules = { period_reset = "5/15 * * * *" }
  }
  expect_failures = [
    var.schedules,
  ]
}

run "refused_12" {
  command = plan
  variables {
    schedules = { period_reset = "*/0 * * * *" }
  }
  expect_failures = [
    var.schedules,
  ]
}

run "refused_13" {
  command = plan
  variables {
    schedules = { period_reset = "0  1 * * *" }
  }
  expect_failures = [
    var.schedules,
  ]
}

run "refused_14" {
  command = plan
  variables {
    schedules = { period_reset = "" }
  }
  expect_failures = [
    var.schedules,
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
