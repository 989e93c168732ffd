# What an installation may choose. Whatever is not here follows from functions/jobs.json.

variable "project_id" {
  type        = string
  description = "The project that everything is made in."
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "project_id must be a project's id (6 to 30 lower-case letters, digits and dashes), such as bytereview-prod; not its name or number."
  }
}

variable "region" {
  type        = string
  description = "The region of everything that has one, such as europe-west1."
  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]{1,2}$", var.region))
    error_message = "region must be a region, such as europe-west1; not a zone (europe-west1-b) and not a multi-region (eu)."
  }
}

variable "labels" {
  type        = map(string)
  default     = {}
  description = "Labels for everything that takes labels, beside app = maintenance."
  validation {
    condition     = alltrue([for key, value in var.labels : can(regex("^[a-z][a-z0-9_-]{0,62}$", key)) && can(regex("^[a-z0-9_-]{0,63}$", value))])
    error_message = "labels must have lower-case letters, digits, _ and - only, at most 63 of them; a key begins with a letter."
  }
}

# ---- what the jobs do ----

variable "mode" {
  type        = string
  default     = "report"
  description = "MAINTENANCE_MODE. report: every run counts what it would do and writes nothing; enforce: runs do it. Begin with report."
  validation {
    condition     = contains(["report", "enforce"], var.mode)
    error_message = "mode must be report or enforce."
  }
}

variable "stripe_meter_id" {
  type        = string
  description = "STRIPE_METER_PAGES: the id of the Stripe meter that counts pages, mtr_…."
  validation {
    condition     = can(regex("^mtr_\\w{1,250}$", var.stripe_meter_id))
    error_message = "stripe_meter_id must be the meter's id, which begins with mtr_; not its event name."
  }
}

variable "settings" {
  type        = map(string)
  default     = {}
  description = "Other settings of the README, by name, such as { ABANDONED_AFTER_DAYS = \"60\" }. Each goes to the functions that read it."
  validation {
    condition     = length(setsubtract(keys(var.settings), concat(keys(local.default_settings), local.optional_settings))) == 0
    error_message = "settings has a name that is not a setting or is set otherwise: ${join(", ", setsubtract(keys(var.settings), concat(keys(local.default_settings), local.optional_settings)))}. Known are ${join(", ", concat(keys(local.default_settings), local.optional_settings))}."
  }
  validation {
    # A name that is not known is told of above.
    condition = alltrue([for name, value in { for name, value in var.settings : name => trimspace(value) if contains(keys(local.value_forms), name) } : (
      value == "" ? true : !can(regex(local.value_forms[name].pattern, value)) ? false
      : contains(keys(local.whole_numbers), name) ? tonumber(value) >= local.whole_numbers[name].low && tonumber(value) <= local.whole_numbers[name].high
      : name == "STRIPE_TAKEOVER_AT" ? can(timeadd(upper(value), "0s")) : true
    )])
    error_message = "settings has a value that does not fit. Given are ${join("; ", [for name, value in var.settings : "${name} = \"${value}\", to be ${local.value_forms[name].text}" if contains(keys(local.value_forms), name)])}."
  }
}

# ---- when they run ----

variable "schedules" {
  type        = map(string)
  default     = {}
  description = "Another cron for a job, by the job's name: five fields in UTC, each of *, */n, a, a-b, a-b/n, and lists of these with commas. Names of months or weekdays are not understood; Sunday is 0."
  validation {
    condition     = length(setsubtract(keys(var.schedules), keys(local.declared))) == 0
    error_message = "schedules names a job that functions/jobs.json does not have: ${join(", ", setsubtract(keys(var.schedules), keys(local.declared)))}. Known are ${join(", ", keys(local.declared))}."
  }
}

variable "attempts" {
  type        = map(map(number))
  default     = {}
  description = "Other limits for a job, by the job's name. timeout_seconds: when the function is cut off (a run stops 60 s before). deadline_seconds: how long Cloud Scheduler waits for an answer; the timeout plus 90 unless given. retries: attempts after the first. What is left out is as in functions/jobs.json."
  validation {
    condition     = length(setsubtract(keys(var.attempts), keys(local.declared))) == 0
    error_message = "attempts names a job that functions/jobs.json does not have: ${join(", ", setsubtract(keys(var.attempts), keys(local.declared)))}. Known are ${join(", ", keys(local.declared))}."
  }
  validation {
    condition     = length(setsubtract(keys(merge(values(var.attempts)...)), local.limits)) == 0
    error_message = "attempts has a limit that there is not: ${join(", ", setsubtract(keys(merge(values(var.attempts)...)), local.limits))}. Known are ${join(", ", local.limits)}."
  }
  validation {
    condition     = alltrue([for a in values(var.attempts) : lookup(a, "deadline_seconds", null) == null ? true : a.deadline_seconds >= 15 && a.deadline_seconds <= 1800 && floor(a.deadline_seconds) == a.deadline_seconds])
    error_message = "attempts: deadline_seconds must be a whole number from 15 to 1800 (Cloud Scheduler's limits for HTTP)."
  }
  validation {
    condition     = alltrue([for a in values(var.attempts) : lookup(a, "timeout_seconds", null) == null ? true : a.timeout_seconds >= 120 && a.timeout_seconds <= 1710 && floor(a.timeout_seconds) == a.timeout_seconds])
    error_message = "attempts: timeout_seconds must be a whole number from 120 to 1710 (a run stops 60 s before; the longest deadline leaves 90 s to answer)."
  }
  validation {
    condition     = alltrue([for a in values(var.attempts) : lookup(a, "retries", null) == null ? true : contains([0, 1, 2, 3, 4, 5], a.retries)])
    error_message = "attempts: retries must be from 0 to 5 (Cloud Scheduler's limit)."
  }
}

variable "shards" {
  type        = map(number)
  default     = {}
  description = "Into how many parts a firing of a job is cut that are done at once, 1 to 32, by the job's name, such as { stripe_reconcile = 4 }. What is left out is as in functions/jobs.json. docs/deploy.md says when it is worth it."
  validation {
    condition     = length(setsubtract(keys(var.shards), keys(local.declared))) == 0
    error_message = "shards names a job that functions/jobs.json does not have: ${join(", ", setsubtract(keys(var.shards), keys(local.declared)))}. Known are ${join(", ", keys(local.declared))}."
  }
  validation {
    # A name that is not known is told of above.
    condition     = length(setsubtract(setintersection(keys(var.shards), keys(local.declared)), local.can_be_sharded)) == 0
    error_message = "shards names a job that cannot be cut into parts: ${join(", ", setsubtract(keys(var.shards), local.can_be_sharded))}. Those that can are ${join(", ", local.can_be_sharded)}."
  }
  validation {
    condition     = alltrue([for name, number in var.shards : number == null ? true : number >= 1 && number <= local.largest_shards && floor(number) == number])
    error_message = "shards must be a whole number from 1 to ${local.largest_shards}. What is not: ${join(", ", [for name, number in var.shards : "${name} = ${number}" if try(number < 1 || number > local.largest_shards || floor(number) != number, false)])}."
  }
}

variable "paused_jobs" {
  type        = set(string)
  default     = []
  description = "Jobs, by name, whose Cloud Scheduler job is paused. The functions stay."
  validation {
    condition     = length(setsubtract(var.paused_jobs, keys(local.declared))) == 0
    error_message = "paused_jobs names a job that functions/jobs.json does not have: ${join(", ", setsubtract(var.paused_jobs, keys(local.declared)))}. Known are ${join(", ", keys(local.declared))}."
  }
}

# ---- Stripe's key ----

variable "stripe_secret_key" {
  type        = string
  default     = null
  sensitive   = true
  ephemeral   = true
  description = "STRIPE_SECRET_KEY: best as the environment variable TF_VAR_stripe_secret_key. It goes to Secret Manager and into neither plan nor state, so every plan asks for it; name existing_stripe_secret instead to be spared that."
  validation {
    condition     = var.stripe_secret_key != ""
    error_message = "stripe_secret_key is empty. Export the key as the environment variable TF_VAR_stripe_secret_key; where existing_stripe_secret names it, unset the variable."
  }
  validation {
    condition     = var.stripe_secret_key == null || var.stripe_secret_key == "" || can(regex("^(sk|rk)_(live|test)_[^\\s]+$", var.stripe_secret_key))
    error_message = "stripe_secret_key must be a secret or restricted key: sk_live_…, rk_live_…, sk_test_… or rk_test_…."
  }
}

variable "stripe_secret_key_revision" {
  type        = number
  default     = 1
  description = "Raise it by one with every new stripe_secret_key: Terraform cannot see that a write-only value changed."
  validation {
    condition     = var.stripe_secret_key_revision >= 1 && floor(var.stripe_secret_key_revision) == var.stripe_secret_key_revision
    error_message = "stripe_secret_key_revision must be a whole number of 1 or more."
  }
}

variable "existing_stripe_secret" {
  type        = object({ secret_id = string, version = string })
  default     = null
  description = "A secret of this project that holds the Stripe key, and its version as a number, instead of stripe_secret_key."
  validation {
    condition     = var.existing_stripe_secret == null ? true : can(regex("^[1-9][0-9]*$", var.existing_stripe_secret.version)) && can(regex("^[A-Za-z0-9_-]{1,255}$", var.existing_stripe_secret.secret_id))
    error_message = "existing_stripe_secret takes the secret's short id and a version as a number: \"latest\" would change under a running function."
  }
  validation {
    condition     = (var.existing_stripe_secret == null) != (var.stripe_secret_key == null)
    error_message = "Give either stripe_secret_key (best as the environment variable TF_VAR_stripe_secret_key, with every plan) or existing_stripe_secret."
  }
}

# ---- data: made here, or existing ----

variable "database" {
  type        = map(string)
  default     = {}
  description = "The Cloud SQL instance that is made: tier (db-custom-1-3840), edition (ENTERPRISE), availability (ZONAL), disk_gb (10), version (POSTGRES_16). A small installation takes tier db-g1-small; availability REGIONAL doubles the price and survives a zone."
  validation {
    condition     = length(setsubtract(keys(var.database), keys(local.default_database))) == 0
    error_message = "database has a name that there is not: ${join(", ", setsubtract(keys(var.database), keys(local.default_database)))}. Known are ${join(", ", keys(local.default_database))}."
  }
  validation {
    condition     = can(regex("^ENTERPRISE(_PLUS)?$", merge(local.default_database, var.database).edition)) && can(regex("^(ZON|REGION)AL$", merge(local.default_database, var.database).availability))
    error_message = "database: edition must be ENTERPRISE or ENTERPRISE_PLUS, availability ZONAL or REGIONAL."
  }
  validation {
    condition     = can(regex("^POSTGRES_1[4-9]$", merge(local.default_database, var.database).version)) && can(regex("^[1-9][0-9]{1,5}$", merge(local.default_database, var.database).disk_gb))
    error_message = "database: version must be POSTGRES_14 to POSTGRES_19, disk_gb a whole number of 10 or more."
  }
  validation {
    condition     = !can(regex("^(ENTERPRISE_PLUS db-(custom-|f1-micro$|g1-small$)|ENTERPRISE db-perf-optimized-)", join(" ", [merge(local.default_database, var.database).edition, merge(local.default_database, var.database).tier])))
    error_message = "database: ENTERPRISE_PLUS wants a tier such as db-perf-optimized-N-2; ENTERPRISE one such as db-g1-small or db-custom-1-3840. Google refuses the one with the other's."
  }
}

variable "existing_database" {
  type        = string
  default     = null
  description = "The name of a Cloud SQL for PostgreSQL instance of this project, instead of a new one. It needs the flag cloudsql.iam_authentication = on."
  validation {
    condition     = var.existing_database == null ? true : can(regex("^[a-z][a-z0-9-]{0,97}$", var.existing_database))
    error_message = "existing_database must be the instance's name alone, such as main; not project:region:name."
  }
}

variable "database_name" {
  type        = string
  default     = "bytereview"
  description = "The name of the service's database on the instance. On a new instance it is made."
  validation {
    condition     = can(regex("^[A-Za-z_][A-Za-z0-9_-]{0,62}$", var.database_name))
    error_message = "database_name must be the database's name alone: 63 letters, digits, _ and - at most, a letter or _ first."
  }
}

variable "redis" {
  type        = map(string)
  default     = {}
  description = "The Memorystore for Redis instance that is made: tier (BASIC), memory_gb (1); null: none, and PostgreSQL's locks instead. STANDARD_HA has a replica."
  validation {
    condition     = length(setsubtract(try(keys(var.redis), []), keys(local.default_redis))) == 0
    error_message = "redis has a name that there is not: ${join(", ", setsubtract(try(keys(var.redis), []), keys(local.default_redis)))}. Known are ${join(", ", keys(local.default_redis))}."
  }
  validation {
    condition     = can(regex("^(BASIC|STANDARD_HA)$", merge(local.default_redis, var.redis).tier)) && can(regex("^[1-9][0-9]{0,2}$", merge(local.default_redis, var.redis).memory_gb))
    error_message = "redis: tier must be BASIC or STANDARD_HA, memory_gb a whole number of 1 or more."
  }
}

variable "existing_redis" {
  type        = string
  default     = null
  description = "The name of a Memorystore for Redis instance of this project and region, instead of a new one. It must be on existing_network."
  validation {
    condition     = var.existing_redis == null || var.existing_network != null
    error_message = "existing_redis needs existing_network: the network that the instance is on."
  }
  validation {
    condition     = var.existing_redis == null ? true : can(regex("^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$", var.existing_redis))
    error_message = "existing_redis must be the instance's name alone, such as main; not projects/…/instances/main."
  }
}

variable "existing_bucket" {
  type        = string
  default     = null
  description = "The name of the service's bucket, instead of a new one."
  validation {
    condition     = var.existing_bucket == null ? true : can(regex("^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$", var.existing_bucket))
    error_message = "existing_bucket must be the bucket's name alone, such as files-prod; not gs://files-prod."
  }
}

variable "deletion_protection" {
  type        = bool
  default     = true
  description = "Whether Terraform and Google refuse to delete the database instance, and Terraform to delete a bucket that is not empty. Only a tear-down turns it off."
}

# ---- network and encryption ----

variable "network" {
  type        = string
  default     = "connector"
  description = "How the database is reached. connector: at a public address that admits nobody but the Cloud SQL connector with an IAM login. private: at a private address in the VPC."
  validation {
    condition     = contains(["connector", "private"], var.network)
    error_message = "network must be connector or private."
  }
}

variable "subnet_range" {
  type        = string
  default     = "10.90.0.0/24"
  description = "The addresses of the subnetwork that is made for the functions. /26 is the least that direct VPC egress takes."
  validation {
    condition     = can(cidrhost(var.subnet_range, 0)) && try(tonumber(split("/", var.subnet_range)[1]) <= 26, false)
    error_message = "subnet_range must be a range such as 10.90.0.0/24, no smaller than /26."
  }
}

variable "existing_network" {
  type        = object({ network = string, subnetwork = string })
  default     = null
  description = "A network and a subnetwork of it in the region (of this project; of a Shared VPC only where its host lets this project's Cloud Run service agent use the subnetwork), as projects/…/global/networks/… and projects/…/regions/…/subnetworks/…, instead of new ones. For a private database private service access must be set up in it."
  validation {
    condition     = var.existing_network == null ? true : can(regex("^projects/[^/]+/global/networks/[^/]+$", var.existing_network.network)) && can(regex("^projects/[^/]+/regions/${var.region}/subnetworks/[^/]+$", var.existing_network.subnetwork))
    error_message = "existing_network must look like { network = \"projects/P/global/networks/N\", subnetwork = \"projects/P/regions/${var.region}/subnetworks/S\" }: in the same region as the rest."
  }
}

variable "kms_key" {
  type        = string
  default     = null
  description = "A Cloud KMS key in the region that everything made here is encrypted with, as projects/…/locations/…/keyRings/…/cryptoKeys/…; null: Google's keys."
  validation {
    condition     = var.kms_key == null ? true : can(regex("^projects/[^/]+/locations/${var.region}/keyRings/[^/]+/cryptoKeys/[^/]+$", var.kms_key))
    error_message = "kms_key must look like projects/P/locations/${var.region}/keyRings/R/cryptoKeys/K, in the same region as the rest."
  }
}

# ---- who is told ----

variable "alert_emails" {
  type        = list(string)
  default     = []
  description = "Addresses that alerts are sent to."
  validation {
    condition     = alltrue([for address in var.alert_emails : can(regex("^[^@\\s]+@[^@\\s]+\\.[^@\\s]+$", address))])
    error_message = "alert_emails must be e-mail addresses."
  }
}

variable "alert_channels" {
  type        = list(string)
  default     = []
  description = "Other notification channels that exist (Slack, PagerDuty, …), as projects/…/notificationChannels/…."
  validation {
    condition     = alltrue([for channel in var.alert_channels : can(regex("^projects/[^/]+/notificationChannels/[^/]+$", channel))])
    error_message = "alert_channels must look like projects/P/notificationChannels/123; `gcloud beta monitoring channels list` prints them."
  }
}
