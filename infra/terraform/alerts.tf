# Few policies for all jobs: each condition is grouped by job, so each job has an incident of its own. busy, fenced,
# unavailable and incomplete are no alerts: the next attempt takes them up, and if none succeeds the job is overdue.

locals {
  channels = concat([for channel in google_monitoring_notification_channel.email : channel.id], var.alert_channels)

  hour = 3600
  day  = 86400

  # At once, and then once a day for as long as it goes on.
  told_again = length(local.channels) > 0 ? [local.channels] : []

  # In report mode nothing is sent and nothing deleted, so that something waits is no news there.
  enforcing = var.mode == "enforce"

  # Each condition: which counter, more than how many lines in how long.
  policies = {
    failed = {
      title      = "Maintenance: a run failed"
      severity   = "ERROR"
      conditions = { failed = { title = "failed, refused or misconfigured", seconds = local.day, above = 0, by_job = true } }
      what       = "A run failed, was refused because too much would be deleted, or is misconfigured. The finish line of the job says which and why. See \"What a request may say, and what comes back\" in the README. Runbook: docs/runbook/failed.md."
    }
    overdue = {
      title    = "Maintenance: a job is late, or jobs are without Redis"
      severity = "ERROR"
      conditions = merge(
        {
          overdue = { title = "overdue", seconds = local.hour / 4, above = 0, by_job = true }
          # One run without it is an interruption. With redis = null none counts as being without it.
          degraded = { title = "more than three runs of a day without Redis", seconds = local.day, above = 3, by_job = false }
          # Its last step was queued, and work is left.
          steps = { title = "a firing ran out of steps", seconds = local.day, above = 0, by_job = true }
        },
        local.enforcing ? { backlog = { title = "backlog older than two intervals and 15 minutes", seconds = local.hour / 4, above = 0, by_job = true } } : {},
      )
      what = "A job had time for all attempts of a firing and has not succeeded since, or what it should have done waits for too long, also after all the steps that one firing may take. Look at the job's newest finish lines; then at Cloud Scheduler: does it fire, is it paused? Without Redis jobs work as ever, on PostgreSQL's locks: look at the instance, and whether its address changed. Runbook: docs/runbook/overdue.md."
    }
    money = {
      title    = "Maintenance: usage that a person must decide about"
      severity = "WARNING"
      conditions = {
        late        = { title = "usage reported after its invoice was closed", seconds = local.day, above = 0, by_job = true }
        dead_letter = { title = "events that Stripe refused", seconds = local.day, above = 0, by_job = true }
        expired     = { title = "events too old for Stripe", seconds = local.day, above = 0, by_job = true }
        drift       = { title = "our pages and Stripe's differ", seconds = local.day, above = 0, by_job = true }
      }
      what = "Nothing of this is corrected by itself. The lines with \"event\": \"attention\" name what it is; see stripe_reconcile in the README. Runbook: docs/runbook/money.md."
    }
    outbox = {
      title    = "Maintenance: objects do not leave the bucket"
      severity = "WARNING"
      # All jobs share one outbox: the line of each would tell of the same object.
      conditions = local.enforcing ? { outbox = { title = "an object waits for more than two days", seconds = local.hour / 4, above = 0, by_job = false } } : {}
      what       = "Rows are erased, their objects are not. `python -m ops outbox` shows them: those that no run gets to (pending), those that the bucket refused (failed), and what Google Cloud Storage said. Runbook: docs/runbook/outbox.md."
    }
  }
}

resource "google_monitoring_notification_channel" "email" {
  for_each     = toset(var.alert_emails)
  display_name = "Maintenance: ${each.key}"
  type         = "email"
  labels       = { email_address = each.key }
  depends_on   = [google_project_service.api]
}

resource "google_monitoring_alert_policy" "counted" {
  for_each              = { for name, policy in local.policies : name => policy if length(policy.conditions) > 0 }
  display_name          = each.value.title
  combiner              = "OR"
  severity              = each.value.severity
  notification_channels = local.channels
  user_labels           = merge({ app = "maintenance" }, var.labels)

  dynamic "conditions" {
    for_each = each.value.conditions
    content {
      display_name = conditions.value.title
      condition_threshold {
        filter          = "resource.type = \"cloud_run_revision\" AND metric.type = \"logging.googleapis.com/user/${google_logging_metric.counter[conditions.key].name}\""
        comparison      = "COMPARISON_GT"
        threshold_value = conditions.value.above
        duration        = "0s"
        aggregations {
          alignment_period     = "${conditions.value.seconds}s"
          per_series_aligner   = "ALIGN_SUM"
          cross_series_reducer = "REDUCE_SUM"
          group_by_fields      = conditions.value.by_job ? ["metric.label.job"] : []
        }
      }
    }
  }

  alert_strategy {
    auto_close = "${local.hour / 2}s"
    dynamic "notification_channel_strategy" {
      for_each = local.told_again
      content {
        notification_channel_names = notification_channel_strategy.value
        renotify_interval          = "${local.day}s"
      }
    }
  }

  documentation {
    content   = each.value.what
    mime_type = "text/markdown"
  }
}

resource "google_monitoring_alert_policy" "silent" {
  display_name          = "Maintenance: the health check is silent"
  combiner              = "OR"
  severity              = "CRITICAL"
  notification_channels = local.channels
  user_labels           = merge({ app = "maintenance" }, var.labels)

  conditions {
    display_name = "no health line for 30 minutes"
    # No line, no number: an absence is seen only of a series that was there the day before.
    condition_prometheus_query_language {
      query               = "(sum(increase(logging_googleapis_com:user_${replace(google_logging_metric.counter["health"].name, "/", "_")}{${local.of_functions}}[10m])) or vector(0)) < 1"
      duration            = "${local.hour / 2}s"
      evaluation_interval = "300s"
      # In a new project nobody has logged a line yet.
      disable_metric_validation = true
    }
  }

  alert_strategy {
    auto_close = "${local.hour / 2}s"
    dynamic "notification_channel_strategy" {
      for_each = local.told_again
      content {
        notification_channel_names = notification_channel_strategy.value
        renotify_interval          = "${local.day}s"
      }
    }
  }

  documentation {
    content   = "Nobody would hear of a late job now. Either PostgreSQL cannot be reached (the function ${local.slugs[local.health_job]} logs why), or the Cloud Scheduler job ${google_cloud_scheduler_job.health.name} is paused, deleted or may not call it. Runbook: docs/runbook/silent.md."
    mime_type = "text/markdown"
  }
}

# Only a warning: an installation may have somebody watch the dashboard.
check "somebody_is_told" {
  assert {
    condition     = length(var.alert_emails) + length(var.alert_channels) > 0
    error_message = "alert_emails and alert_channels are empty: alerts are opened, and nobody is told."
  }
}
