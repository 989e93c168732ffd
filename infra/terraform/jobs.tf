# The jobs as functions/jobs.json declares them, with what this installation changes, and the arithmetic that the
# conditions in scheduler.tf need.

locals {
  root     = "${path.module}/../.."
  declared = { for job in jsondecode(file("${local.root}/functions/jobs.json")) : job.name => job }

  # Google's names take no underscore.
  slugs = { for name in keys(local.declared) : name => replace(name, "_", "-") }

  limits = ["deadline_seconds", "retries", "timeout_seconds"]
  changed = {
    for name, job in local.declared : name => {
      schedule        = lookup(var.schedules, name, null) == null ? job.schedule : var.schedules[name]
      timeout_seconds = coalesce(try(var.attempts[name].timeout_seconds, null), job.timeout_seconds)
      retries         = coalesce(try(var.attempts[name].retries, null), job.retries)
    }
  }
  jobs = { for name, job in local.declared : name => merge(job, local.changed[name]) }

  # Those whose module offers to be done in shards (open_slot, run_shard, close_slot); a test holds it against the code.
  can_be_sharded = ["stripe_reconcile", "abandoned_cleanup", "artifact_cleanup", "opt_out_cleanup"]
  largest_shards = 32
  # How many shards a firing is cut into, 1 for none; and only of those that are cut.
  shards  = { for name, job in local.declared : name => coalesce(lookup(var.shards, name, null), try(job.shards, 1)) }
  sharded = { for name, number in local.shards : name => number if number > 1 }
  # How much may be under way at once, over all jobs: five as ever, and each shard besides, or they would keep the other
  # jobs waiting, and each other.
  at_once = 5 + sum(concat([0], values(local.sharded)))

  # A run that is cut off still needs its answer to travel: 90 s.
  answer_seconds = 90
  deadlines = {
    for name, job in local.jobs :
    name => coalesce(try(var.attempts[name].deadline_seconds, null), job.timeout_seconds + local.answer_seconds)
  }

  # Cloud Scheduler doubles the wait before each retry, from the first to the longest.
  backoff_first_seconds   = 30
  backoff_longest_seconds = 240
  backoff_doublings       = 3
  longest_firing_seconds = {
    for name, job in local.jobs : name => (job.retries + 1) * local.deadlines[name] + sum(concat([0], [
      for retry in range(job.retries) : min(local.backoff_longest_seconds, local.backoff_first_seconds * pow(2, retry))
    ]))
  }

  # ---- cron: the shortest time between two firings ----

  cron_bounds  = [[0, 59], [0, 23], [1, 31], [1, 12], [0, 6]]
  cron_numbers = ["[0-5]?[0-9]", "(?:1?[0-9]|2[0-3])", "(?:[1-9]|[12][0-9]|3[01])", "(?:[1-9]|1[0-2])", "[0-6]"]
  cron_parts   = [for n in local.cron_numbers : "(?:\\*(?:/[1-9][0-9]?)?|${n}(?:-${n}(?:/[1-9][0-9]?)?)?)"]
  cron_forms   = [for part in local.cron_parts : "^${part}(?:,${part})*$"]

  # Each part of each field as the numbers that it stands for: none where it counts backwards (5-3), or is not understood.
  cron_ranges = {
    for name, job in local.jobs : name => [
      for index, field in split(" ", job.schedule) : [
        for part in split(",", field) : try(range(
          startswith(part, "*") ? local.cron_bounds[index][0] : tonumber(split("-", split("/", part)[0])[0]),
          1 + (startswith(part, "*") ? local.cron_bounds[index][1] : tonumber(reverse(split("-", split("/", part)[0]))[0])),
          try(tonumber(split("/", part)[1]), 1),
        ), [])
      ]
    ]
  }
  cron_fields = { for name, fields in local.cron_ranges : name => [for parts in fields : distinct(flatten(parts))] }

  # What the conditions in scheduler.tf ask, as yes or no: terraform prints whatever a condition looks at.
  cron_understood = {
    for name, fields in local.cron_ranges : name => length(fields) == 5 && alltrue([
      for index, field in split(" ", local.jobs[name].schedule) : can(regex(local.cron_forms[index], field))
    ]) && alltrue([for parts in fields : alltrue([for numbers in parts : length(numbers) > 0])])
  }
  # A day that none of the months has never comes, unless a day of the week is given besides: then either is enough.
  cron_comes = {
    for name, fields in local.cron_fields : name => try(
      min(fields[2]...) <= max([for month in fields[3] : month == 2 ? 29 : contains([4, 6, 9, 11], month) ? 30 : 31]...)
      || !anytrue([for index in [2, 4] : startswith(split(" ", local.jobs[name].schedule)[index], "*")]),
      true,
    )
  }
  # The minutes of a week at which a job may fire, in order. Where a day of the month is given, or a month, every day
  # counts: then the result is no longer than the true interval, which is the safe side.
  cron_minutes = {
    for name, fields in local.cron_fields : name => try([
      for minute in sort(flatten([
        for day in(split(" ", local.jobs[name].schedule)[2] == "*" ? fields[4] : range(7)) : [
          for hour in fields[1] : [for minute in fields[0] : format("%05d", day * 1440 + hour * 60 + minute)]
        ]
      ])) : tonumber(minute)
    ], [])
  }
  # 0 where the schedule is not understood: another condition tells.
  shortest_interval_seconds = {
    for name, minutes in local.cron_minutes : name => length(minutes) == 0 ? 0 : 60 * min([
      for index, minute in minutes : try(minutes[index + 1], minutes[0] + 7 * 1440) - minute
    ]...)
  }
}
