# The environment of each function: what it reads, and nothing else.

locals {
  # The values that the code itself would take, written out so that an installation can be read off its plan.
  default_settings = {
    MAX_CONCURRENT_JOBS            = "5"
    RESULT_TTL_HOURS               = "24"
    LOCK_TTL_SECONDS               = "60"
    FREE_PLAN_CODES                = "free"
    STRIPE_MIN_AGE_MINUTES         = "15"
    STRIPE_INVOICE_GRACE_MINUTES   = "60"
    ABANDONED_AFTER_DAYS           = "30"
    OPT_OUT_GRACE_DAYS             = "7"
    ARTIFACT_RETENTION_DAYS        = "7"
    ORPHAN_AGE_DAYS                = "14"
    USAGE_COUNTER_RETENTION_MONTHS = "13"
    MAX_DELETE_FRACTION            = "0.5"
    MAX_DELETE_FLOOR               = "1000"
    ORPHAN_MAX_FRACTION            = "0.05"
    ORPHAN_MAX_FLOOR               = "20"
  }
  # Set only where an installation gives them: their defaults are "not yet", or follow from Stripe's key.
  optional_settings = ["STRIPE_TAKEOVER_AT", "STRIPE_RATE", "STRIPE_READ_RATE", "STRIPE_METER_EVENT_NAME"]

  settings = merge(local.default_settings, var.settings)

  # Who reads what, beside what every function reads and what follows from a job's needs.
  common_settings = ["MAX_CONCURRENT_JOBS", "RESULT_TTL_HOURS", "LOCK_TTL_SECONDS"]
  stripe_settings = concat(["STRIPE_MIN_AGE_MINUTES", "STRIPE_INVOICE_GRACE_MINUTES"], local.optional_settings)
  job_settings = {
    period_reset          = ["FREE_PLAN_CODES"]
    stripe_reconcile      = ["FREE_PLAN_CODES"]
    usage_counter_cleanup = ["USAGE_COUNTER_RETENTION_MONTHS", "MAX_DELETE_FRACTION", "MAX_DELETE_FLOOR"]
    abandoned_cleanup     = ["ABANDONED_AFTER_DAYS", "MAX_DELETE_FRACTION", "MAX_DELETE_FLOOR"]
    opt_out_cleanup       = ["ABANDONED_AFTER_DAYS", "OPT_OUT_GRACE_DAYS", "MAX_DELETE_FRACTION", "MAX_DELETE_FLOOR"]
    artifact_cleanup = [
      "ARTIFACT_RETENTION_DAYS", "ORPHAN_AGE_DAYS", "ORPHAN_MAX_FRACTION", "ORPHAN_MAX_FLOOR", "MAX_DELETE_FRACTION",
      "MAX_DELETE_FLOOR",
    ]
  }
  # The health check of this function says for every job what waits, so it must count by the same rules.
  health_job      = "period_reset"
  health_settings = ["STRIPE_MIN_AGE_MINUTES", "ABANDONED_AFTER_DAYS", "OPT_OUT_GRACE_DAYS", "USAGE_COUNTER_RETENTION_MONTHS"]

  names_of_settings = {
    for name, job in local.jobs : name => distinct(concat(
      local.common_settings,
      lookup(local.job_settings, name, []),
      contains(job.needs, "stripe") ? local.stripe_settings : [],
      name == local.health_job ? local.health_settings : [],
    ))
  }

  environments = {
    for name, job in local.jobs : name => merge(
      { for setting in local.names_of_settings[name] : setting => local.settings[setting] if contains(keys(local.settings), setting) },
      {
        MAINTENANCE_MODE    = var.mode
        JOB_TIMEOUT_SECONDS = tostring(job.timeout_seconds)
        CLOUD_SQL_INSTANCE  = local.database_connection_name
        CLOUD_SQL_IP_TYPE   = var.network == "private" ? "private" : "public"
        DB_NAME             = var.database_name
        DB_USER             = local.database_users[name]
      },
      local.redis_ca_cert == null ? {} : { REDIS_CA_CERT = local.redis_ca_cert },
      contains(job.needs, "stripe") ? { STRIPE_METER_PAGES = var.stripe_meter_id } : {},
      contains(job.needs, "gcs") ? { GCS_BUCKET_NAME = local.bucket } : {},
    )
  }
}
