# Every variable, with what it is when it is left out, or an example where it is left out by default.
# A small installation needs no more than this:
#
#   project_id      = "bytereview-prod"
#   region          = "europe-west1"
#   stripe_meter_id = "mtr_61abc"
#   redis           = null
#   database        = { tier = "db-g1-small" }
#   alert_emails    = ["ops@example.com"]
#
# stripe_secret_key is not for a file: give it as TF_VAR_stripe_secret_key.

project_id = "bytereview-prod"
region     = "europe-west1"
labels     = { environment = "prod", team = "platform" }

# ---- what the jobs do ----
mode            = "report" # then "enforce"
stripe_meter_id = "mtr_61abc"
settings = {
  ABANDONED_AFTER_DAYS = "60"
  # A promise: since then the service sends each event with identifier = usage_events.id, or does not send it at all.
  # Where that is not so, pages are billed twice. Leave it out until it is.
  # STRIPE_TAKEOVER_AT = "2026-12-01T00:00:00Z"
}

# ---- when they run ----
schedules = {
  stripe_reconcile = "*/30 * * * *"
}
attempts = {
  stripe_reconcile = { timeout_seconds = 600, deadline_seconds = 690, retries = 1 }
}
# shards = { stripe_reconcile = 4 }
paused_jobs = []

# ---- Stripe's key ----
stripe_secret_key_revision = 1
# existing_stripe_secret   = { secret_id = "stripe-secret-key", version = "3" }

# ---- data ----
database = {
  tier         = "db-custom-2-7680"
  edition      = "ENTERPRISE" # ENTERPRISE_PLUS wants a tier db-perf-optimized-…
  availability = "REGIONAL"
  disk_gb      = 100
  version      = "POSTGRES_16"
}
database_name = "bytereview"
# existing_database = "main"
redis = { tier = "STANDARD_HA", memory_gb = 1 } # null: none
# existing_redis    = "main"
# existing_bucket   = "files-prod"
deletion_protection = true

# ---- network and encryption ----
network      = "private" # or "connector"
subnet_range = "10.90.0.0/24"
# existing_network = {
#   network    = "projects/bytereview-prod/global/networks/main"
#   subnetwork = "projects/bytereview-prod/regions/europe-west1/subnetworks/main"
# }
# kms_key = "projects/bytereview-prod/locations/europe-west1/keyRings/main/cryptoKeys/maintenance"

# ---- who is told ----
alert_emails = ["ops@example.com"]
# alert_channels = ["projects/bytereview-prod/notificationChannels/123"]
