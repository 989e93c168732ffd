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
  validation {
    condition     = alltrue([for cron in values(var.schedules) : can(regex(local.cron_pattern, cron))])
    error_message = "schedules has a cron that is not understood: ${join("; ", [for cron in values(var.schedules) : cron if !can(regex(local.cron_pattern, cron))])}. It takes five fields with one blank between them (minute, hour, day, month, weekday 0 to 6), each of *, */n, a, a-b, a-b/n, and lists of these with commas, such as 15 */2 * * *."
  }
}

variable "attempts" {
  type = map(object({
    timeout_seconds  = optional(number)
    deadline_seconds = optional(number)
    retries          = optional(number)
  }))
  default     = {}
  description = "Other limits for a job, by the job's name. timeout_seconds: when the function is cut off (a run stops 60 s before). deadline_seconds: how long Cloud Scheduler waits for an answer; the timeout plus 90 unless given. retries: attempts after the first. What is left out is as in functions/jobs.json."
  validation {
    condition     = length(setsubtract(keys(var.attempts), keys(local.declared))) == 0
    error_message = "attempts names a job that functions/jobs.json does not have: ${join(", ", setsubtract(keys(var.attempts), keys(local.declared)))}. Known are ${join(", ", keys(local.declared))}."
  }
  validation {
    condition     = alltrue([for a in values(var.attempts) : a.deadline_seconds == null ? true : a.deadline_seconds >= 15 && a.deadline_seconds <= 1800 && floor(a.deadline_seconds) == a.deadline_seconds])
    error_message = "attempts: deadline_seconds must be a whole number from 15 to 1800 (Cloud Scheduler's limits for HTTP)."
  }
  validation {
    condition     = alltrue([for a in values(var.attempts) : a.timeout_seconds == null ? true : a.timeout_seconds >= 120 && a.timeout_seconds <= 1710 && floor(a.timeout_seconds) == a.timeout_seconds])
    error_message = "attempts: timeout_seconds must be a whole number from 120 to 1710 (a run stops 60 s before; the longest deadline leaves 90 s to answer)."
  }
  validation {
    condition     = alltrue([for a in values(var.attempts) : a.retries == null ? true : contains([0, 1, 2, 3, 4, 5], a.retries)])
    error_message = "attempts: retries must be from 0 to 5 (Cloud Scheduler's limit)."
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
    condition     = var.stripe_secret_key == null || can(regex("^(sk|rk)_(live|test)_[^\\s]+$", var.stripe_secret_key))
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
  type = object({
    tier         = optional(string, "db-custom-1-3840")
    edition      = optional(string, "ENTERPRISE")
    availability = optional(string, "ZONAL")
    disk_gb      = optional(number, 10)
    version      = optional(string, "POSTGRES_16")
  })
  default     = {}
  description = "The Cloud SQL instance that is made. A small installation takes tier db-g1-small; availability REGIONAL doubles the price and survives a zone."
  validation {
    condition     = contains(["ENTERPRISE", "ENTERPRISE_PLUS"], var.database.edition) && contains(["ZONAL", "REGIONAL"], var.database.availability)
    error_message = "database: edition must be ENTERPRISE or ENTERPRISE_PLUS, availability ZONAL or REGIONAL."
  }
  validation {
    condition     = can(regex("^POSTGRES_1[4-9]$", var.database.version)) && var.database.disk_gb >= 10
    error_message = "database: version must be POSTGRES_14 to POSTGRES_19, disk_gb 10 or more."
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
}

variable "redis" {
  type = object({
    tier      = optional(string, "BASIC")
    memory_gb = optional(number, 1)
  })
  default     = {}
  description = "The Memorystore for Redis instance that is made; null: none, and PostgreSQL's locks instead. STANDARD_HA has a replica."
  validation {
    condition     = var.redis == null ? true : contains(["BASIC", "STANDARD_HA"], var.redis.tier) && var.redis.memory_gb >= 1
    error_message = "redis: tier must be BASIC or STANDARD_HA, memory_gb 1 or more."
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
  description = "A network and a subnetwork of it in the region, as projects/…/global/networks/… and projects/…/regions/…/subnetworks/…, instead of new ones. For a private database private service access must be set up in it."
  validation {
    condition     = var.existing_network == null ? true : can(regex("^projects/[^/]+/global/networks/[^/]+$", var.existing_network.network)) && can(regex("^projects/[^/]+/regions/[^/]+/subnetworks/[^/]+$", var.existing_network.subnetwork))
    error_message = "existing_network must look like { network = \"projects/P/global/networks/N\", subnetwork = \"projects/P/regions/R/subnetworks/S\" }."
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
