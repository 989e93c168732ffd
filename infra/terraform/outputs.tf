output "function_uris" {
  description = "The address of each function, by job. Only Cloud Scheduler's calls get through."
  value       = { for name, function in google_cloudfunctions2_function.job : name => function.service_config[0].uri }
}

output "function_accounts" {
  description = "The account that each function runs as, by job."
  value       = { for name, account in google_service_account.function : name => account.email }
}

output "database_users" {
  description = "The PostgreSQL login of each function, by job: for `python -m ops migrate --grants`."
  value       = local.database_users
}

output "database_instance" {
  description = "CLOUD_SQL_INSTANCE, as project:region:name."
  value       = local.database_connection_name
}

output "bucket" {
  description = "GCS_BUCKET_NAME."
  value       = local.bucket
}

output "run_now" {
  description = "The command that fires each job now, by job."
  value       = { for name, job in google_cloud_scheduler_job.job : name => "gcloud scheduler jobs run ${job.name} --location=${var.region} --project=${var.project_id}" }
}

output "function_settings" {
  description = "The environment of each function but for its secrets, by job: for whoever runs a job by hand with this installation's settings. DB_USER is the function's login; by hand it is one's own."
  value       = local.environments
}

output "build_account" {
  description = "The account that builds the functions."
  value       = google_service_account.build.email
}

output "invoker_account" {
  description = "The account that Cloud Scheduler calls the functions as."
  value       = google_service_account.invoker.email
}

output "source_archive" {
  description = "The deployed archive: its name carries its sha256."
  value       = google_storage_bucket_object.source.name
}
