"""Settings, as far as they are not Django's own; a test decides on the database by the environment."""

import json
import os

from psycopg.conninfo import conninfo_to_dict

_parts = conninfo_to_dict(os.environ["DSN"])
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _parts["dbname"],
        "USER": _parts["user"],
        "HOST": _parts["host"],
        "ATOMIC_REQUESTS": True,
    }
    | json.loads(os.environ["DATABASE"])
}
DATABASES["default"].setdefault("OPTIONS", {})["options"] = _parts["options"]

ALLOWED_HOSTS = ["*"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django_shop"]
LOGGING_CONFIG = None
ROOT_URLCONF = "django_shop.urls"
SECRET_KEY = "of no use to anybody"
USE_TZ = True
