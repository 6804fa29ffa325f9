"""Starts the shop: `DATABASE_URL=postgresql://... python -m shop`.

Also reads PORT (8000; 0 takes a free one) and POOL_TIMEOUT (seconds to wait for a connection, 30).
"""

import logging
import os
import signal
import sys
from types import FrameType

from werkzeug.serving import make_server

from shop.api import create_app
from shop.database import create_pool

logger = logging.getLogger("shop")


def stop(signal_number: int, frame: FrameType | None) -> None:
    """Leaves the main loop; the pool is closed on the way out and what registered with `atexit` runs."""
    sys.exit(0)


def main() -> None:
    """Serves requests on the loopback until SIGTERM or Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    pool = create_pool(os.environ["DATABASE_URL"], timeout=float(os.environ.get("POOL_TIMEOUT", "30")))
    with pool:
        server = make_server(
            "127.0.0.1", int(os.environ.get("PORT", "8000")), create_app(pool), threaded=True
        )
        logger.info("listening on http://127.0.0.1:%d", server.server_port)
        server.serve_forever()


if __name__ == "__main__":
    main()
