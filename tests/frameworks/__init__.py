"""Services on web frameworks and workers, under the real launcher, asked over real HTTP or a real broker."""
