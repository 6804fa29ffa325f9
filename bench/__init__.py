"""What the instrumentation costs, as ratios to one recorded span: ``python -m bench``."""
