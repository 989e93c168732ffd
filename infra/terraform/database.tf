# Cloud SQL for PostgreSQL: made here, or an existing instance; and a login for each function's account.

locals {
  default_database = {
    tier         = "db-custom-1-3840"
    edition      = "ENTERPRISE"
    availability = "ZONAL"
    disk_gb      = "10"
    version      = "POSTGRES_16"
  }
  database = merge(local.default_database, var.database)

  make_database            = var.existing_database == null
  database_instance        = local.make_database ? google_sql_database_instance.main[0].name : var.existing_database
  database_connection_name = local.make_database ? google_sql_database_instance.main[0].connection_name : data.google_sql_database_instance.existing[0].connection_name

  # PostgreSQL knows an account by its address without this ending ("IAM database authentication", Cloud SQL).
  database_users = { for name, account in google_service_account.function : name => trimsuffix(account.email, ".gserviceaccount.com") }
}

resource "google_sql_database_instance" "main" {
  #checkov:skip=CKV_GCP_60:The public address of the network "connector" admits nobody but the connector; network = "private" has none
  #checkov:skip=CKV_GCP_6:TLS only is what ENCRYPTED_ONLY means; the connector that everybody must use brings a client certificate besides
  #checkov:skip=CKV_GCP_79:The version is the service's to choose: database.version
  #checkov:skip=CKV_GCP_108:Looking up a host name with each login delays it, and behind the connector it says nothing
  #checkov:skip=CKV_GCP_110:Auditing statements is the service's decision; what the jobs did is in maintenance.runs and maintenance.erasures
  #checkov:skip=CKV_GCP_111:Statements hold users' data, which has no place in a log
  #checkov:skip=CKV2_GCP_13:A line a statement would bury the rest
  count               = local.make_database ? 1 : 0
  name                = "bytereview"
  region              = var.region
  database_version    = local.database.version
  encryption_key_name = var.kms_key
  deletion_protection = var.deletion_protection

  settings {
    # Without an edition, PostgreSQL 16 and later is Enterprise Plus, at many times the price.
    edition                     = local.database.edition
    tier                        = local.database.tier
    availability_type           = local.database.availability
    disk_type                   = "PD_SSD"
    disk_size                   = tonumber(local.database.disk_gb)
    disk_autoresize             = true
    deletion_protection_enabled = var.deletion_protection
    # Nobody gets in but through the connector, which demands an IAM right and brings its own TLS.
    connector_enforcement = "REQUIRED"
    user_labels           = merge({ app = "maintenance" }, var.labels)

    ip_configuration {
      ipv4_enabled    = var.network == "connector"
      private_network = var.network == "private" ? local.vpc : null
      ssl_mode        = "ENCRYPTED_ONLY"
    }

    backup_configuration {
      enabled                        = true
      start_time                     = "05:00" # after the night's jobs
      point_in_time_recovery_enabled = true
      transaction_log_retention_days = 7
      backup_retention_settings {
        retained_backups = 14
      }
    }

    maintenance_window {
      day          = 7
      hour         = 6
      update_track = "stable"
    }

    dynamic "database_flags" {
      for_each = {
        "cloudsql.iam_authentication" = "on"
        log_checkpoints               = "on"
        log_connections               = "on"
        log_disconnections            = "on"
        log_lock_waits                = "on"
        log_min_error_statement       = "error"
        log_temp_files                = "0"
      }
      content {
        name  = database_flags.key
        value = database_flags.value
      }
    }
  }

  lifecycle {
    # It grows by itself; a plan must not shrink it back.
    ignore_changes = [settings[0].disk_size]
  }

  depends_on = [google_project_service.api, google_service_networking_connection.services, google_kms_crypto_key_iam_member.service_agent]
}

data "google_sql_database_instance" "existing" {
  count = local.make_database ? 0 : 1
  name  = var.existing_database
}

resource "google_sql_database" "service" {
  count    = local.make_database ? 1 : 0
  name     = var.database_name
  instance = google_sql_database_instance.main[0].name
  # It goes with its instance. By itself it could not be dropped while anybody is connected.
  deletion_policy = "ABANDON"
}

# A login is all that a function gets here. Which tables it may touch is for `python -m ops migrate --grants` to say.
resource "google_sql_user" "function" {
  for_each = local.jobs
  instance = local.database_instance
  name     = local.database_users[each.key]
  type     = "CLOUD_IAM_SERVICE_ACCOUNT"
  # PostgreSQL drops no role that has rights on a table, so a tear-down would stop here. What is left cannot be used
  # without its account; docs/deploy.md says how to take it out of an existing instance.
  deletion_policy = "ABANDON"

  lifecycle {
    precondition {
      condition     = length(local.database_users[each.key]) <= 63
      error_message = "The job ${each.key} has too long a name: its login ${local.database_users[each.key]} has more than PostgreSQL's 63 characters."
    }
  }
}

# Only a warning: an instance that is being set up may get the flag later.
check "existing_database_takes_iam_logins" {
  assert {
    condition = local.make_database ? true : anytrue([
      for flag in flatten(data.google_sql_database_instance.existing[0].settings[*].database_flags) :
      flag.name == "cloudsql.iam_authentication" && flag.value == "on"
    ])
    error_message = "The instance of existing_database does not show the flag cloudsql.iam_authentication = on. Without it no function can log in."
  }
}
