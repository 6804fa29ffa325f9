"""The HTTP side of the shop: one function a path, and what each failure becomes."""

import logging
from collections import deque

import psycopg
from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue
from psycopg_pool import PoolTimeout

from shop.database import Pool
from shop.repositories import (
    CustomerRepository,
    OrderRepository,
    OutOfStock,
    ProductRepository,
    ReportRepository,
)

logger = logging.getLogger(__name__)


def create_app(pool: Pool) -> Flask:
    """The application, with its repositories on this pool."""
    app = Flask("shop")
    add_customers(app, CustomerRepository(pool))
    add_products(app, ProductRepository(pool))
    add_orders(app, OrderRepository(pool))
    add_reports(app, ReportRepository(pool))
    add_errors(app)
    return app


def add_customers(app: Flask, customers: CustomerRepository) -> None:
    """Paths below /customers."""

    @app.get("/customers")
    def get_customers() -> ResponseReturnValue:
        return jsonify(customers.list_customers(request.args.get("sort", "name")))

    @app.get("/customers/<int:customer_id>")
    def get_customer(customer_id: int) -> ResponseReturnValue:
        customer = customers.get_customer(customer_id)
        if customer is None:
            return jsonify(error="no such customer"), 404
        return jsonify(customer)


def add_products(app: Flask, products: ProductRepository) -> None:
    """Paths below /products."""

    @app.get("/products")
    def get_products() -> ResponseReturnValue:
        words = request.args.get("q")
        return jsonify(products.search_products(words) if words else products.list_products())


def add_orders(app: Flask, orders: OrderRepository) -> None:
    """Paths below /orders."""

    @app.get("/orders")
    def get_orders() -> ResponseReturnValue:
        return jsonify(orders.list_orders(request.args.get("customer", type=int, default=0)))

    @app.get("/orders/<int:order_id>")
    def get_order(order_id: int) -> ResponseReturnValue:
        order = orders.find_order(order_id)
        if order is None:
            return jsonify(error="no such order"), 404
        return jsonify(order)

    @app.post("/orders")
    def post_order() -> ResponseReturnValue:
        body = request.get_json()
        try:
            order_id = orders.place_order(
                body["customer"], body["product"], body["quantity"], gift="gift" in request.args
            )
        except OutOfStock as error:
            return jsonify(error=str(error)), 409
        return jsonify(id=order_id), 201


def add_reports(app: Flask, reports: ReportRepository) -> None:
    """Paths below /reports."""

    @app.get("/reports/revenue")
    def get_revenue() -> ResponseReturnValue:
        return jsonify(reports.revenue_by_month())


def add_errors(app: Flask) -> None:
    """Turns database errors into answers, and keeps the last ones for the status page."""
    recent_errors: deque[Exception] = deque(maxlen=20)

    @app.errorhandler(PoolTimeout)
    def no_connection(error: PoolTimeout) -> ResponseReturnValue:
        logger.error("%s %s: %s", request.method, request.path, error)
        return jsonify(error="the shop is busy, try again later"), 503

    @app.errorhandler(psycopg.ProgrammingError)
    def bad_query(error: psycopg.ProgrammingError) -> ResponseReturnValue:
        recent_errors.append(error)
        return jsonify(error="bad request"), 400

    @app.get("/status")
    def get_status() -> ResponseReturnValue:
        return jsonify(errors=[str(error) for error in recent_errors])
