"""The SQL of the shop: one class a table, one function a question."""

from psycopg import sql

from shop.database import Pool, Row, transaction


class OutOfStock(Exception):
    """There are fewer pieces of a product than somebody wants to buy."""


class CustomerRepository:
    """Who buys."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def get_customer(self, customer_id: int) -> Row | None:
        """One customer, or None."""
        with self._pool.connection() as conn:
            return conn.execute(
                "SELECT id, name, email FROM customers WHERE id = %s", (customer_id,)
            ).fetchone()

    def list_customers(self, sort: str) -> list[Row]:
        """All customers, ordered by one column."""
        query = sql.SQL("SELECT id, name, email FROM customers ORDER BY {}").format(sql.Identifier(sort))
        conn = self._pool.getconn()
        customers = conn.execute(query).fetchall()
        self._pool.putconn(conn)
        return customers


class ProductRepository:
    """What is sold."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def list_products(self) -> list[Row]:
        """All products by name."""
        conn = self._pool.getconn()
        try:
            products = conn.execute("SELECT id, name, price, stock FROM products ORDER BY name").fetchall()
            conn.commit()
            return products
        finally:
            self._pool.putconn(conn)

    def search_products(self, words: str) -> list[Row]:
        """The products with these words in their name."""
        conn = self._pool.getconn()
        cursor = conn.execute(
            "SELECT id, name, price, stock FROM products WHERE name ILIKE %s ORDER BY name", (f"%{words}%",)
        )
        return cursor.fetchall()


class OrderRepository:
    """Who bought what."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def find_order(self, order_id: int) -> Row | None:
        """One order with its lines, or None."""
        conn = self._pool.getconn()
        order = conn.execute(
            "SELECT id, customer_id, status, ordered_at FROM orders WHERE id = %s", (order_id,)
        ).fetchone()
        if order is None:
            return None
        order["lines"] = conn.execute(
            "SELECT product_id, quantity, price FROM order_lines WHERE order_id = %s", (order_id,)
        ).fetchall()
        self._pool.putconn(conn)
        return order

    def list_orders(self, customer_id: int) -> list[Row]:
        """The orders of one customer, newest first."""
        with self._pool.connection() as conn:
            return conn.execute(
                "SELECT id, status, ordered_at FROM orders WHERE customer_id = %s ORDER BY ordered_at DESC",
                (customer_id,),
            ).fetchall()

    def place_order(self, customer_id: int, product_id: int, quantity: int, gift: bool) -> int:
        """Sells a product and returns the number of the order; nobody pays for a gift.

        Raises:
            OutOfStock: when there are not enough of it.
        """
        conn = self._pool.getconn()
        try:
            product = conn.execute(
                "UPDATE products SET stock = stock - %(quantity)s"
                " WHERE id = %(id)s AND stock >= %(quantity)s RETURNING price",
                {"id": product_id, "quantity": quantity},
            ).fetchone()
            if product is None:
                raise OutOfStock(f"fewer than {quantity} pieces of product {product_id}")
            order = conn.execute(
                "INSERT INTO orders (customer_id) VALUES (%s) RETURNING id", (customer_id,)
            ).fetchone()
            assert order is not None
            conn.execute(
                "INSERT INTO order_lines (order_id, product_id, quantity, price) VALUES (%s, %s, %s, %s)",
                (order["id"], product_id, quantity, product["price"]),
            )
            if gift:
                conn.execute("UPDATE orders SET status = 'paid' WHERE id = %s", (order["id"],))
                return int(order["id"])
            conn.commit()
            return int(order["id"])
        finally:
            self._pool.putconn(conn)


class ReportRepository:
    """The figures for the accountant."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def revenue_by_month(self) -> list[Row]:
        """What came in, month by month. Slow: it reads all orders."""
        with transaction(self._pool) as conn:
            return conn.execute("SELECT month, revenue FROM revenue_by_month()").fetchall()
