# With kms_key: Google's own accounts for the services used here may encrypt and decrypt with it. docs/deploy.md says how
# to make those accounts where the project has never used a service.

locals {
  number = data.google_project.this.number
  service_agents = var.kms_key == null ? {} : merge(
    {
      artifactregistry = "service-${local.number}@gcp-sa-artifactregistry.iam.gserviceaccount.com"
      functions        = "service-${local.number}@gcf-admin-robot.iam.gserviceaccount.com"
      run              = "service-${local.number}@serverless-robot-prod.iam.gserviceaccount.com"
      secretmanager    = "service-${local.number}@gcp-sa-secretmanager.iam.gserviceaccount.com"
      storage          = "service-${local.number}@gs-project-accounts.iam.gserviceaccount.com"
    },
    local.make_database ? { sql = "service-${local.number}@gcp-sa-cloud-sql.iam.gserviceaccount.com" } : {},
    local.make_redis ? { redis = "service-${local.number}@cloud-redis.iam.gserviceaccount.com" } : {},
  )
}

resource "google_kms_crypto_key_iam_member" "service_agent" {
  for_each      = local.service_agents
  crypto_key_id = var.kms_key
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = "serviceAccount:${each.value}"
  depends_on    = [google_project_service.api]
}
