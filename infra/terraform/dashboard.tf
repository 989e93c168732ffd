# One dashboard: when each job last succeeded, how long it took, what it did, what waits, what does not agree.

locals {
  # Figures are distributions of single values; their sum over the number of lines is the value itself.
  average = "sum by (job) (increase(logging_googleapis_com:user_maintenance_%s_sum{${local.of_functions}}[%s])) / sum by (job) (increase(logging_googleapis_com:user_maintenance_%s_count{${local.of_functions}}[%s]))"

  charts = [
    { title = "Minutes since the last success, by job", query = format(local.average, "since_success_minutes", "10m", "since_success_minutes", "10m") },
    {
      title = "Runs completed in the last day, by job"
      query = "sum by (job) (increase(logging_googleapis_com:user_maintenance_runs{${local.of_functions},status=\"completed\"}[1d]))"
    },
    {
      title = "Runs in the last hour, by status"
      query = "sum by (job, status) (increase(logging_googleapis_com:user_maintenance_runs{${local.of_functions}}[1h]))"
    },
    { title = "Duration of a run (ms)", query = format(local.average, "duration_ms", "1h", "duration_ms", "1h") },
    { title = "Oldest event that waits for Stripe (minutes)", query = format(local.average, "backlog_minutes", "10m", "backlog_minutes", "10m") },
    { title = "Unresolved drift (customers and periods)", query = format(local.average, "drift_count", "2h", "drift_count", "2h") },
    {
      title = "Failed, refused or misconfigured in the last day"
      query = "sum by (job) (increase(logging_googleapis_com:user_maintenance_failed{${local.of_functions}}[1d]))"
    },
  ]
  count_charts = [
    for name, job in local.jobs : {
      title = "${name}: ${job.counts[0]} in the last day"
      query = "sum(increase(logging_googleapis_com:user_maintenance_items_${name}_sum{${local.of_functions}}[1d]))"
    }
  ]
  all_charts = concat(local.charts, local.count_charts)

  log_panels = [
    { title = "Last success and next firing of each job (last_success, next_firing)", filter = google_logging_metric.counter["health"].filter },
    { title = "Ends of runs", filter = google_logging_metric.counter["runs"].filter },
  ]
}

resource "google_monitoring_dashboard" "maintenance" {
  dashboard_json = jsonencode({
    displayName = "Maintenance jobs"
    mosaicLayout = {
      columns = 12
      tiles = concat(
        [
          for index, panel in local.log_panels : {
            xPos   = 6 * index
            yPos   = 0
            width  = 6
            height = 4
            widget = {
              title     = panel.title
              logsPanel = { filter = panel.filter, resourceNames = ["projects/${var.project_id}"] }
            }
          }
        ],
        [
          for index, chart in local.all_charts : {
            xPos   = 4 * (index % 3)
            yPos   = 4 + 3 * floor(index / 3)
            width  = 4
            height = 3
            widget = {
              title = chart.title
              xyChart = {
                dataSets = [{ plotType = "LINE", timeSeriesQuery = { prometheusQuery = chart.query } }]
              }
            }
          }
        ],
      )
    }
  })
}
