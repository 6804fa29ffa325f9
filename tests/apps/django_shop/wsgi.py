"""For gunicorn; log lines begin with the process id."""

import logging

from django.core.wsgi import get_wsgi_application

logging.basicConfig(level=logging.INFO, format="%(process)d %(levelname)s %(message)s")
application = get_wsgi_application()
