# A firing that is cut into shards, and what grows with them.

mock_provider "google" {}

variables {
  project_id        = "demo-project"
  region            = "europe-west1"
  stripe_meter_id   = "mtr_1"
  stripe_secret_key = "sk_test_not_a_real_key"
  alert_emails      = ["ops@example.com"]
}

run "nothing_is_cut_up" {
  command = plan
  variables {
    # One shard is none, and null is as declared.
    shards = { stripe_reconcile = 1, artifact_cleanup = null }
  }
  assert {
    condition     = google_cloud_tasks_queue.continuation.rate_limits[0].max_concurrent_dispatches == 5 && google_cloud_tasks_queue.continuation.rate_limits[0].max_dispatches_per_second == 1
    error_message = "The queue is as ever."
  }
  assert {
    condition     = alltrue([for f in google_cloudfunctions2_function.job : f.service_config[0].max_instance_request_concurrency == 4 && f.service_config[0].max_instance_count == 2 && f.service_config[0].environment_variables.MAX_CONCURRENT_JOBS == "5"])
    error_message = "So is each function."
  }
  assert {
    condition     = jsonencode(jsondecode(local.declaration)) == jsonencode(jsondecode(file("../../functions/jobs.json")))
    error_message = "And what is deployed is what is declared."
  }
}

run "two_jobs_are" {
  command = plan
  variables {
    shards    = { stripe_reconcile = 8, artifact_cleanup = 4 }
    schedules = { period_reset = "31 0 * * *" }
  }
  assert {
    condition     = jsonencode({ for job in jsondecode(local.declaration) : job.name => job.shards if can(job.shards) }) == jsonencode({ artifact_cleanup = 4, stripe_reconcile = 8 })
    error_message = "The deployed declaration says into how many, and of the others nothing."
  }
  assert {
    condition     = google_cloud_tasks_queue.continuation.rate_limits[0].max_concurrent_dispatches == 17 && google_cloud_tasks_queue.continuation.rate_limits[0].max_dispatches_per_second == 8
    error_message = "All shards are under way at once, beside five others, and those of one firing begin together."
  }
  assert {
    condition     = jsonencode({ for name, f in google_cloudfunctions2_function.job : name => f.service_config[0].max_instance_count if f.service_config[0].max_instance_count != 2 }) == jsonencode({ artifact_cleanup = 6, stripe_reconcile = 10 })
    error_message = "An instance for each shard, and two besides."
  }
  assert {
    condition     = alltrue([for name, f in google_cloudfunctions2_function.job : f.service_config[0].max_instance_request_concurrency == (contains(["artifact_cleanup", "stripe_reconcile"], name) ? 1 : 4)])
    error_message = "No two shards share an instance."
  }
  assert {
    condition     = alltrue([for environment in local.environments : environment.MAX_CONCURRENT_JOBS == "17"])
    error_message = "Each shard takes a place, and five are left, for every function to reckon with."
  }
}

run "more_than_there_are_places" {
  command = plan
  variables {
    shards = { stripe_reconcile = 32, artifact_cleanup = 32, abandoned_cleanup = 32, opt_out_cleanup = 32 }
  }
  assert {
    condition     = local.environments.period_reset.MAX_CONCURRENT_JOBS == "100"
    error_message = "The code takes no more than 100."
  }
}

run "places_that_just_suffice" {
  command = plan
  variables {
    shards   = { stripe_reconcile = 8, artifact_cleanup = 8 }
    settings = { MAX_CONCURRENT_JOBS = "9" }
  }
  assert {
    condition     = local.environments.stripe_reconcile.MAX_CONCURRENT_JOBS == "9"
    error_message = "What the installation sets counts."
  }
}

run "places_that_do_not" {
  command = plan
  variables {
    shards   = { stripe_reconcile = 8 }
    settings = { MAX_CONCURRENT_JOBS = "8" }
  }
  expect_failures = [google_cloud_tasks_queue.continuation]
}

run "one_place_is_enough_for_jobs_that_are_not_cut_up" {
  command = plan
  variables {
    settings = { MAX_CONCURRENT_JOBS = "1" }
  }
  assert {
    condition     = local.environments.stripe_reconcile.MAX_CONCURRENT_JOBS == "1"
    error_message = "As ever."
  }
}
