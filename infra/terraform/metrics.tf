# Metrics made of the log: the finish line of each run, and the health line of each job every five minutes. Where a
# login may not look, a health line has no `waiting`, so what matters most is taken from the finish lines too.

locals {
  our_lines = "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=(${join(" OR ", [for slug in values(local.slugs) : "\"${slug}\""])})"

  # A log-based metric can be of several kinds of resources, so PromQL must say of which.
  of_functions = "monitored_resource=\"cloud_run_revision\""

  # A job whose figures tell how old its backlog is may be two intervals and a quarter of an hour behind.
  backlog_minutes = {
    for name, job in local.jobs : name => 2 * local.shortest_interval_seconds[name] / 60 + 15
    if contains(job.gauges, "oldest_waiting_minutes")
  }

  # How often something was logged, by job.
  counters = {
    runs = {
      about  = "Runs that ended, by job and status"
      filter = "jsonPayload.event=\"finish\""
    }
    failed = {
      about  = "Runs that failed, were refused or misconfigured, or in which no item could be done"
      filter = "jsonPayload.event=(\"finish\" OR \"answer\") AND (jsonPayload.status=(\"failed\" OR \"refused\" OR \"misconfigured\") OR (jsonPayload.status=\"completed\" AND jsonPayload.success=false))"
    }
    degraded = {
      about  = "Runs that went without Redis, though the installation has one"
      filter = "jsonPayload.event=\"finish\" AND jsonPayload.degraded=\"redis\" AND NOT jsonPayload.shard>0"
    }
    steps = {
      about  = "Firings that had work left after the last step that may be queued for them"
      filter = "jsonPayload.event=\"steps\""
    }
    health = {
      about  = "Health lines, one for each job every five minutes"
      filter = "jsonPayload.event=\"health\""
    }
    overdue = {
      about  = "Health lines of a job that had time for all its attempts and has not succeeded"
      filter = "jsonPayload.event=\"health\" AND jsonPayload.overdue=true"
    }
    backlog = {
      about = "Health lines of a job whose oldest waiting event is older than two intervals and 15 minutes"
      filter = "jsonPayload.event=\"health\" AND (${join(" OR ", concat([
        for name, minutes in local.backlog_minutes : "(jsonPayload.job=\"${name}\" AND jsonPayload.waiting.oldest_waiting_minutes>${minutes})"
      ], length(local.backlog_minutes) == 0 ? ["jsonPayload.waiting.oldest_waiting_minutes>1440"] : []))})"
    }
    late = {
      about  = "Runs that reported usage after its invoice was closed"
      filter = "jsonPayload.event=\"finish\" AND jsonPayload.dry_run=false AND jsonPayload.late_count>0"
    }
    dead_letter = {
      about  = "Lines that tell of events which Stripe refused for good"
      filter = "(jsonPayload.event=\"finish\" AND jsonPayload.dead_letter_count>0) OR (jsonPayload.event=\"health\" AND jsonPayload.waiting.dead_letter_count>0)"
    }
    expired = {
      about  = "Runs that found events too old for Stripe"
      filter = "jsonPayload.event=\"finish\" AND jsonPayload.dry_run=false AND jsonPayload.expired_count>0"
    }
    drift = {
      about  = "Lines that tell of unresolved differences between our pages and Stripe's"
      filter = "(jsonPayload.event=\"finish\" AND jsonPayload.unresolved_drift_count>0) OR (jsonPayload.event=\"health\" AND jsonPayload.waiting.unresolved_drift_count>0)"
    }
    outbox = {
      about  = "Health lines that tell of an object which should have left the bucket two days ago, and which nothing keeps"
      filter = "jsonPayload.event=\"health\" AND jsonPayload.waiting.oldest_open_minutes>2880"
    }
  }

  # Figures for the dashboard.
  figures = merge(
    {
      duration_ms = {
        about  = "How long runs took, in milliseconds"
        filter = "jsonPayload.event=\"finish\""
        field  = "jsonPayload.duration_ms"
      }
      backlog_minutes = {
        about  = "Age of the oldest event that waits, in minutes"
        filter = "jsonPayload.event=\"health\" AND jsonPayload.waiting.oldest_waiting_minutes>=0"
        field  = "jsonPayload.waiting.oldest_waiting_minutes"
      }
      since_success_minutes = {
        about  = "Minutes since a job last succeeded"
        filter = "jsonPayload.event=\"health\" AND jsonPayload.since_success_minutes>=0"
        field  = "jsonPayload.since_success_minutes"
      }
      drift_count = {
        about  = "Unresolved differences between our pages and Stripe's"
        filter = "jsonPayload.event=\"finish\" AND jsonPayload.unresolved_drift_count>=0"
        field  = "jsonPayload.unresolved_drift_count"
      }
    },
    {
      for name, job in local.jobs : "items/${name}" => {
        about = "${job.counts[0]} of ${name}"
        # The run's own: what its firing's other attempts and its shards did stands in their lines.
        filter = "jsonPayload.event=\"finish\" AND jsonPayload.job=\"${name}\" AND jsonPayload.own.${job.counts[0]}>=0"
        field  = "jsonPayload.own.${job.counts[0]}"
      }
    },
  )
}

resource "google_logging_metric" "counter" {
  for_each    = local.counters
  name        = "maintenance/${each.key}"
  description = each.value.about
  filter      = "${local.our_lines} AND (${each.value.filter})"

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
    unit        = "1"
    labels {
      key         = "job"
      value_type  = "STRING"
      description = "The job's name"
    }
    labels {
      key         = "status"
      value_type  = "STRING"
      description = "How the run ended, where a run did"
    }
  }
  label_extractors = {
    job    = "EXTRACT(jsonPayload.job)"
    status = "EXTRACT(jsonPayload.status)"
  }

  depends_on = [google_project_service.api]
}

resource "google_logging_metric" "figure" {
  for_each        = local.figures
  name            = "maintenance/${each.key}"
  description     = each.value.about
  filter          = "${local.our_lines} AND (${each.value.filter})"
  value_extractor = "EXTRACT(${each.value.field})"

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "DISTRIBUTION"
    unit        = "1"
    labels {
      key         = "job"
      value_type  = "STRING"
      description = "The job's name"
    }
  }
  label_extractors = {
    job = "EXTRACT(jsonPayload.job)"
  }
  bucket_options {
    exponential_buckets {
      num_finite_buckets = 32
      growth_factor      = 2
      scale              = 1
    }
  }

  depends_on = [google_project_service.api]
}
