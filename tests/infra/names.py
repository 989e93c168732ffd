"""What an installation calls what it makes, as it was promised: written out, and not read from the Terraform."""

PROJECT = "demo-project"
INVOKER = f"maintenance-invoker@{PROJECT}.iam.gserviceaccount.com"
BUILDER = f"serviceAccount:maintenance-build@{PROJECT}.iam.gserviceaccount.com"


def slug(job: str) -> str:
    return job.replace("_", "-")


def account(job: str) -> str:
    return f"fn-{slug(job)}@{PROJECT}.iam.gserviceaccount.com"
