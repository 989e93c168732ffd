# The arithmetic of crons, and what follows from it for retries and deadlines.

mock_provider "google" {}

variables {
  project_id        = "demo-project"
  region            = "europe-west1"
  stripe_meter_id   = "mtr_1"
  stripe_secret_key = "sk_test_not_a_real_key"
  alert_emails      = ["ops@example.com"]
}

run "the_declared_schedules" {
  command = plan
  assert {
    condition     = jsonencode(local.shortest_interval_seconds) == jsonencode({ period_reset = 86400, stripe_reconcile = 7200, usage_counter_cleanup = 604800, abandoned_cleanup = 86400, artifact_cleanup = 86400, opt_out_cleanup = 604800 })
    error_message = "Daily, every two hours, weekly."
  }
  assert {
    condition     = local.longest_firing_seconds["stripe_reconcile"] == 3 * 1800 + 30 + 60 && local.longest_firing_seconds["artifact_cleanup"] == 6 * 1800 + 30 + 60 + 120 + 240 + 240
    error_message = "All attempts at their deadline, with the waits between them."
  }
}

run "lists_ranges_and_steps" {
  command = plan
  variables {
    schedules = {
      period_reset          = "0 0,12-14/2,23 * * *" # 23 to 0 is an hour
      stripe_reconcile      = "15 1-23/3 * * *"      # 22:15 to 1:15
      usage_counter_cleanup = "0 2 * * 1-5"
      abandoned_cleanup     = "0 1 1,15 * *" # days of a month count as every day
      artifact_cleanup      = "0 3 * 1 0"
      opt_out_cleanup       = "0 4 * * 6,0"
    }
    attempts = { period_reset = { timeout_seconds = 600, retries = 3 } }
  }
  assert {
    condition     = jsonencode(local.shortest_interval_seconds) == jsonencode({ period_reset = 3600, stripe_reconcile = 10800, usage_counter_cleanup = 86400, abandoned_cleanup = 86400, artifact_cleanup = 604800, opt_out_cleanup = 86400 })
    error_message = "The shortest time between two firings, over midnight and over the week's end too."
  }
}

run "what_does_not_fit_is_refused" {
  command = plan
  variables {
    schedules = {
      opt_out_cleanup       = "* * * * *"     # fires again within its first attempt
      usage_counter_cleanup = "0 5-3 * * *"   # counts backwards
      artifact_cleanup      = "0 3,5 * * 1-5" # six attempts take longer than two hours
    }
    attempts = {
      stripe_reconcile  = { retries = 3 } # two fit into two hours, three do not
      period_reset      = { timeout_seconds = 1000, deadline_seconds = 1089 }
      abandoned_cleanup = { timeout_seconds = 600, deadline_seconds = 300 }
    }
  }
  expect_failures = [
    google_cloud_scheduler_job.job["opt_out_cleanup"],
    google_cloud_scheduler_job.job["usage_counter_cleanup"],
    google_cloud_scheduler_job.job["artifact_cleanup"],
    google_cloud_scheduler_job.job["stripe_reconcile"],
    google_cloud_scheduler_job.job["period_reset"],
    google_cloud_scheduler_job.job["abandoned_cleanup"],
  ]
}

run "not_understood_1" {
  command = plan
  variables {
    schedules = {
      period_reset          = "0 1 * *"
      stripe_reconcile      = "0 1 * * * *"
      usage_counter_cleanup = "60 1 * * *"
      abandoned_cleanup     = "0 24 * * *"
      artifact_cleanup      = "0 0 0 * *"
      opt_out_cleanup       = "0 0 * 13 *"
    }
  }
  expect_failures = [
    google_cloud_scheduler_job.job["period_reset"],
    google_cloud_scheduler_job.job["stripe_reconcile"],
    google_cloud_scheduler_job.job["usage_counter_cleanup"],
    google_cloud_scheduler_job.job["abandoned_cleanup"],
    google_cloud_scheduler_job.job["artifact_cleanup"],
    google_cloud_scheduler_job.job["opt_out_cleanup"],
  ]
}

run "not_understood_2" {
  command = plan
  variables {
    schedules = {
      period_reset          = "0 0 * * 7"
      stripe_reconcile      = "0 0 * * SUN"
      usage_counter_cleanup = "every 5 minutes"
      abandoned_cleanup     = "5/15 * * * *"
      artifact_cleanup      = "*/0 * * * *"
      opt_out_cleanup       = "0  1 * * *"
    }
  }
  expect_failures = [
    google_cloud_scheduler_job.job["period_reset"],
    google_cloud_scheduler_job.job["stripe_reconcile"],
    google_cloud_scheduler_job.job["usage_counter_cleanup"],
    google_cloud_scheduler_job.job["abandoned_cleanup"],
    google_cloud_scheduler_job.job["artifact_cleanup"],
    google_cloud_scheduler_job.job["opt_out_cleanup"],
  ]
}

run "not_understood_3" {
  command = plan
  variables {
    schedules = {
      period_reset          = ""
      stripe_reconcile      = "30 5-3 * * *"
      usage_counter_cleanup = "0 7,5-3 * * *" # one part of it is enough
      abandoned_cleanup     = "0 0 31 4 *"    # April has 30 days
      artifact_cleanup      = "0 0 30 2 *"
      opt_out_cleanup       = "0 0 31 4,6-6,9,11 */7" # */7 is a Sunday, and begins with a star
    }
  }
  expect_failures = [
    google_cloud_scheduler_job.job["period_reset"],
    google_cloud_scheduler_job.job["stripe_reconcile"],
    google_cloud_scheduler_job.job["usage_counter_cleanup"],
    google_cloud_scheduler_job.job["abandoned_cleanup"],
    google_cloud_scheduler_job.job["artifact_cleanup"],
    google_cloud_scheduler_job.job["opt_out_cleanup"],
  ]
}

run "days_that_come" {
  command = plan
  variables {
    schedules = {
      period_reset      = "0 0 29 2 *"
      abandoned_cleanup = "0 0 31 4,5 *"
      artifact_cleanup  = "0 0 31 4 1" # with a day of the week beside it, either is enough
    }
  }
  assert {
    condition     = alltrue(values(local.cron_comes)) && alltrue(values(local.cron_understood))
    error_message = "In a leap year, in one of its months, or each Monday."
  }
}

run "what_just_fits_is_taken" {
  command = plan
  variables {
    attempts = {
      period_reset          = { timeout_seconds = 1000, deadline_seconds = 1090 }
      usage_counter_cleanup = { retries = 0 }
    }
  }
  assert {
    condition     = google_cloud_scheduler_job.job["period_reset"].attempt_deadline == "1090s" && google_cloudfunctions2_function.job["period_reset"].service_config[0].timeout_seconds == 1000 && google_cloudfunctions2_function.job["period_reset"].service_config[0].environment_variables.JOB_TIMEOUT_SECONDS == "1000"
    error_message = "Deadline, timeout and JOB_TIMEOUT_SECONDS agree."
  }
  assert {
    condition     = google_cloud_scheduler_job.job["usage_counter_cleanup"].retry_config[0].retry_count == 0 && local.longest_firing_seconds["usage_counter_cleanup"] == 1800
    error_message = "0 is a number of retries, not a missing one."
  }
}
