# The environment of each function: what it reads, and nothing else.

# What may be set, and what a value looks like: as the code itself takes it (shared/settings.py and what it calls). This
# block refers to nothing else, so that tests can hold it against the code.
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

  # What a value must look like.
  whole_numbers = {
    MAX_CONCURRENT_JOBS            = { low = 1, high = 100 }
    RESULT_TTL_HOURS               = { low = 1, high = 8760 }
    LOCK_TTL_SECONDS               = { low = 2, high = 3600 }
    STRIPE_MIN_AGE_MINUTES         = { low = 1, high = 1440 }
    STRIPE_INVOICE_GRACE_MINUTES   = { low = 0, high = 4320 }
    STRIPE_RATE                    = { low = 1, high = 10000 }
    STRIPE_READ_RATE               = { low = 1, high = 10000 }
    ABANDONED_AFTER_DAYS           = { low = 1, high = 36500 }
    OPT_OUT_GRACE_DAYS             = { low = 1, high = 36500 }
    ARTIFACT_RETENTION_DAYS        = { low = 1, high = 36500 }
    ORPHAN_AGE_DAYS                = { low = 1, high = 36500 }
    USAGE_COUNTER_RETENTION_MONTHS = { low = 1, high = 1200 }
    MAX_DELETE_FLOOR               = { low = 0, high = 999999999 }
    ORPHAN_MAX_FLOOR               = { low = 0, high = 999999999 }
  }
  value_forms = merge(
    { for name, range in local.whole_numbers : name => { pattern = "^[0-9]{1,9}$", text = "a whole number from ${range.low} to ${range.high}" } },
    { for name in ["MAX_DELETE_FRACTION", "ORPHAN_MAX_FRACTION"] : name => { pattern = "^(0(\\.[0-9]{1,9})?|1(\\.0{1,9})?)$", text = "a share from 0 to 1, such as 0.5" } },
    {
      FREE_PLAN_CODES         = { pattern = "^[^,]*[^,\\s][^,]*(,[^,]*[^,\\s][^,]*)*$", text = "a list of plan codes with commas between them, such as free,trial" }
      STRIPE_METER_EVENT_NAME = { pattern = "^(?s:.{1,100})$", text = "the event name of a meter, 100 characters at most" }
      STRIPE_TAKEOVER_AT = {
        pattern = "^[1-9][0-9]{3}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{1,9})?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
        text    = "an RFC 3339 time, such as 2026-01-01T00:00:00Z"
      }
    },
  )
}

locals {
  # As the code takes them: without blanks around, and an empty one counts as not set.
  settings = merge(
    local.default_settings,
    # Each shard takes a place. The code takes no more than 100: then some wait.
    { MAX_CONCURRENT_JOBS = tostring(min(local.whole_numbers.MAX_CONCURRENT_JOBS.high, local.at_once)) },
    { for name, value in var.settings : name => trimspace(value) if trimspace(value) != "" },
  )

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
        CONTINUATION_QUEUE  = "projects/${var.project_id}/locations/${var.region}/queues/${google_cloud_tasks_queue.continuation.name}"
      },
      local.redis_ca_cert == null ? {} : { REDIS_CA_CERT = local.redis_ca_cert },
      contains(job.needs, "stripe") ? { STRIPE_METER_PAGES = var.stripe_meter_id } : {},
      contains(job.needs, "gcs") ? { GCS_BUCKET_NAME = local.bucket } : {},
    )
  }
}
