# Where a run that ends with work left queues its next step, and a firing that is cut up its shards: requests to its own
# function, with its own account's token. Shards need no other rights than steps: each is one more such request.

resource "google_cloud_tasks_queue" "continuation" {
  name     = "maintenance-continuation"
  location = var.region

  rate_limits {
    max_concurrent_dispatches = local.at_once
    # All shards of a firing begin within a second.
    max_dispatches_per_second = max(1, values(local.sharded)...)
  }
  # A step that finds the job busy, rows locked or a service away is tried again for 35 minutes: a run that is under way
  # elsewhere is over by then. What is given up, the next firing takes up; what only a person can mend runs no more often.
  retry_config {
    max_attempts  = 12
    min_backoff   = "${local.backoff_first_seconds}s"
    max_backoff   = "${local.backoff_longest_seconds}s"
    max_doublings = local.backoff_doublings
  }

  lifecycle {
    precondition {
      condition     = tonumber(local.settings.MAX_CONCURRENT_JOBS) > max(0, values(local.sharded)...)
      error_message = "MAX_CONCURRENT_JOBS is ${local.settings.MAX_CONCURRENT_JOBS} in `settings`, and ${join(", ", [for name, number in local.sharded : "${name} has ${number} shards"])}. Each shard takes one of these places: give at least one more than the largest number of shards, or leave it out; then it is ${min(100, local.at_once)}."
    }
  }

  depends_on = [google_project_service.api]
}

resource "google_cloud_tasks_queue_iam_member" "continuation" {
  for_each = local.jobs
  name     = google_cloud_tasks_queue.continuation.name
  location = var.region
  role     = "roles/cloudtasks.enqueuer"
  member   = google_service_account.function[each.key].member
}

# A task carries the token of the account that is named in it, and only who may act as that account may name it.
resource "google_service_account_iam_member" "continuation" {
  for_each           = local.jobs
  service_account_id = google_service_account.function[each.key].name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.function[each.key].member
}

resource "google_cloud_run_v2_service_iam_member" "continuation" {
  for_each = local.jobs
  name     = google_cloudfunctions2_function.job[each.key].name
  location = var.region
  role     = "roles/run.invoker"
  member   = google_service_account.function[each.key].member

  lifecycle {
    # The right is on the service behind the function, and goes with it.
    replace_triggered_by = [google_cloudfunctions2_function.job[each.key].id]
  }
}
