# What fires the functions. Cloud Scheduler counts as internal only at the function's own run.app address, with that
# address as the token's audience.

resource "google_cloud_run_v2_service_iam_member" "invoker" {
  for_each = local.jobs
  name     = google_cloudfunctions2_function.job[each.key].name
  location = var.region
  role     = "roles/run.invoker"
  member   = google_service_account.invoker.member

  lifecycle {
    # The right is on the service behind the function, and goes with it.
    replace_triggered_by = [google_cloudfunctions2_function.job[each.key].id]
  }
}

resource "google_cloud_scheduler_job" "job" {
  for_each         = local.jobs
  name             = local.slugs[each.key]
  region           = var.region
  description      = each.value.description
  schedule         = each.value.schedule
  time_zone        = "Etc/UTC"
  attempt_deadline = "${local.deadlines[each.key]}s"
  paused           = contains(var.paused_jobs, each.key)

  retry_config {
    retry_count          = each.value.retries
    max_retry_duration   = "0s" # no limit of its own: with one, retries go on until both are reached
    min_backoff_duration = "${local.backoff_first_seconds}s"
    max_backoff_duration = "${local.backoff_longest_seconds}s"
    max_doublings        = local.backoff_doublings
  }

  http_target {
    http_method = "POST"
    uri         = google_cloudfunctions2_function.job[each.key].service_config[0].uri
    oidc_token {
      service_account_email = google_service_account.invoker.email
      audience              = google_cloudfunctions2_function.job[each.key].service_config[0].uri
    }
  }

  lifecycle {
    precondition {
      condition     = local.cron_understood[each.key]
      error_message = "${each.key}: the schedule \"${each.value.schedule}\" is not understood, or a range in it counts backwards. It takes five fields in UTC with one blank between them (minute, hour, day, month, weekday 0 to 6), each of *, */n, a, a-b, a-b/n, and lists of these with commas, such as 15 */2 * * *."
    }
    precondition {
      condition     = local.cron_comes[each.key]
      error_message = "${each.key}: the schedule \"${each.value.schedule}\" never comes: none of its months has such a day."
    }
    precondition {
      condition     = local.deadlines[each.key] >= 15 && local.deadlines[each.key] <= 1800
      error_message = "${each.key}: the deadline is ${local.deadlines[each.key]} s. Cloud Scheduler takes 15 to 1800 s."
    }
    precondition {
      condition     = each.value.retries >= 0 && each.value.retries <= 5
      error_message = "${each.key}: ${each.value.retries} retries. Cloud Scheduler takes 0 to 5."
    }
    precondition {
      condition     = each.value.timeout_seconds <= local.deadlines[each.key] - local.answer_seconds
      error_message = "${each.key}: the timeout (${each.value.timeout_seconds} s) must be ${local.answer_seconds} s or more below the deadline (${local.deadlines[each.key]} s), or an attempt that is still running counts as failed and is sent again. Lower timeout_seconds in `attempts`, or raise deadline_seconds."
    }
    precondition {
      condition     = local.shortest_interval_seconds[each.key] == 0 || local.longest_firing_seconds[each.key] < local.shortest_interval_seconds[each.key]
      error_message = "${each.key}: a firing with all its ${each.value.retries} retries takes up to ${local.longest_firing_seconds[each.key]} s, and the schedule \"${each.value.schedule}\" fires again after ${local.shortest_interval_seconds[each.key]} s, so a firing would be skipped. Give fewer retries or a shorter timeout_seconds in `attempts`, or a schedule that fires less often."
    }
  }

  depends_on = [google_cloud_run_v2_service_iam_member.invoker]
}

# The health check logs a line for every job; alerts on lateness are made from those.
resource "google_cloud_scheduler_job" "health" {
  name             = "maintenance-health"
  region           = var.region
  description      = "Asks how all jobs are: a GET on ${local.slugs[local.health_job]}, which runs nothing"
  schedule         = "*/5 * * * *"
  time_zone        = "Etc/UTC"
  attempt_deadline = "60s"
  paused           = false

  retry_config {
    retry_count = 0
  }

  http_target {
    http_method = "GET"
    uri         = google_cloudfunctions2_function.job[local.health_job].service_config[0].uri
    oidc_token {
      service_account_email = google_service_account.invoker.email
      audience              = google_cloudfunctions2_function.job[local.health_job].service_config[0].uri
    }
  }

  depends_on = [google_cloud_run_v2_service_iam_member.invoker]
}
