# One function for each entry of functions/jobs.json.

resource "google_cloudfunctions2_function" "job" {
  for_each     = local.jobs
  name         = local.slugs[each.key]
  location     = var.region
  description  = each.value.description
  kms_key_name = var.kms_key

  build_config {
    runtime           = "python313"
    entry_point       = each.key
    service_account   = google_service_account.build.id
    docker_repository = google_artifact_registry_repository.images.id
    source {
      storage_source {
        bucket = google_storage_bucket.source.name
        object = google_storage_bucket_object.source.name
      }
    }
  }

  service_config {
    service_account_email = google_service_account.function[each.key].email
    ingress_settings      = "ALLOW_INTERNAL_ONLY"
    timeout_seconds       = each.value.timeout_seconds
    available_memory      = "${each.value.memory_mib}Mi"
    # A second delivery, or the health check, must get our answer while a job runs, not the platform's 429. More than
    # one request at a time needs a whole CPU.
    available_cpu = "1"
    # A shard has an instance of its own, with its CPU and its memory; two are left for what is answered meanwhile.
    max_instance_request_concurrency = contains(keys(local.sharded), each.key) ? 1 : 4
    max_instance_count               = 2 + lookup(local.sharded, each.key, 0)
    min_instance_count               = 0
    all_traffic_on_latest_revision   = true

    environment_variables = local.environments[each.key]

    dynamic "secret_environment_variables" {
      for_each = local.secret_environments[each.key]
      content {
        key        = secret_environment_variables.key
        project_id = var.project_id
        secret     = secret_environment_variables.value.secret_id
        version    = secret_environment_variables.value.version
      }
    }

    direct_vpc_egress = local.has_vpc ? "VPC_EGRESS_PRIVATE_RANGES_ONLY" : null
    dynamic "direct_vpc_network_interface" {
      for_each = local.has_vpc ? [local.subnet] : []
      content {
        network    = local.vpc
        subnetwork = direct_vpc_network_interface.value
      }
    }
  }

  # A deployment is refused where the build or the function may not do what it must.
  depends_on = [
    google_artifact_registry_repository_iam_member.build,
    google_cloud_tasks_queue_iam_member.continuation,
    google_kms_crypto_key_iam_member.service_agent,
    google_project_iam_member.build_log,
    google_project_iam_member.build_source,
    google_project_iam_member.database,
    google_secret_manager_secret_iam_member.redis,
    google_secret_manager_secret_iam_member.stripe,
    google_service_account_iam_member.continuation,
  ]
}
