# Where a run that ends with work left queues its next step: a request to its own function, with its own account's token.

resource "google_cloud_tasks_queue" "continuation" {
  name     = "maintenance-continuation"
  location = var.region

  rate_limits {
    max_concurrent_dispatches = 5
    max_dispatches_per_second = 1
  }
  # A step that finds the job busy, rows locked or a service away is tried again for 35 minutes: a run that is under way
  # elsewhere is over by then. What is given up, the next firing takes up; what only a person can mend runs no more often.
  retry_config {
    max_attempts  = 12
    min_backoff   = "${local.backoff_first_seconds}s"
    max_backoff   = "${local.backoff_longest_seconds}s"
    max_doublings = local.backoff_doublings
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
