"""Which view answers what."""

from django.urls import path

from . import views

urlpatterns = [
    path(view.__name__, view)
    for view in (
        views.customers,
        views.rename,
        views.export,
        views.tidy_background,
        views.background,
        views.checkout,
        views.reserve,
    )
]
