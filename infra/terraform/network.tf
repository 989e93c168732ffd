# A VPC only where something is in one: Redis, or a database at a private address. Functions reach it by direct egress
# for private ranges; Stripe and Google's APIs they reach as ever, so there is no NAT.

locals {
  has_vpc  = local.has_redis || var.network == "private"
  make_vpc = local.has_vpc && var.existing_network == null

  vpc    = !local.has_vpc ? null : local.make_vpc ? google_compute_network.vpc[0].id : var.existing_network.network
  subnet = !local.has_vpc ? null : local.make_vpc ? google_compute_subnetwork.functions[0].id : var.existing_network.subnetwork
}

resource "google_compute_network" "vpc" {
  #checkov:skip=CKV2_GCP_18:No machine is in this network; without a rule it admits nothing
  count                   = local.make_vpc ? 1 : 0
  name                    = "maintenance"
  description             = "What the maintenance functions reach at private addresses"
  auto_create_subnetworks = false
  depends_on              = [google_project_service.api]
}

resource "google_compute_subnetwork" "functions" {
  #checkov:skip=CKV_GCP_26:Nothing is in this subnetwork but the functions' own calls to Redis and the database
  count                    = local.make_vpc ? 1 : 0
  name                     = "maintenance-functions"
  network                  = google_compute_network.vpc[0].id
  region                   = var.region
  ip_cidr_range            = var.subnet_range
  private_ip_google_access = true
}

resource "google_compute_global_address" "services" {
  count         = local.make_vpc && var.network == "private" ? 1 : 0
  name          = "maintenance-services"
  network       = google_compute_network.vpc[0].id
  purpose       = "VPC_PEERING"
  address_type  = "INTERNAL"
  prefix_length = 20
}

resource "google_service_networking_connection" "services" {
  count                   = local.make_vpc && var.network == "private" ? 1 : 0
  network                 = google_compute_network.vpc[0].id
  service                 = "servicenetworking.googleapis.com"
  reserved_peering_ranges = [google_compute_global_address.services[0].name]
  # Google still sees a deleted database use it for days, and refuses. It goes with the network.
  deletion_policy = "ABANDON"
  depends_on      = [google_project_service.api]
}
