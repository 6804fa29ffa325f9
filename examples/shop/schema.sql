-- The shop's tables, with a few rows in each.

CREATE TABLE customers (
    id         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text NOT NULL,
    email      text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE products (
    id    integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name  text NOT NULL,
    price numeric(10, 2) NOT NULL CHECK (price >= 0),
    stock integer NOT NULL CHECK (stock >= 0)
);

CREATE TABLE orders (
    id          integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id integer NOT NULL REFERENCES customers,
    status      text NOT NULL DEFAULT 'new' CHECK (status IN ('new', 'paid', 'sent')),
    ordered_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE order_lines (
    order_id   integer NOT NULL REFERENCES orders,
    product_id integer NOT NULL REFERENCES products,
    quantity   integer NOT NULL CHECK (quantity > 0),
    price      numeric(10, 2) NOT NULL,
    PRIMARY KEY (order_id, product_id)
);

-- A report over years of orders takes a while; these tables are small, so the wait is written out.
CREATE FUNCTION revenue_by_month() RETURNS TABLE (month date, revenue numeric)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep(2);
    RETURN QUERY
        SELECT date_trunc('month', o.ordered_at)::date, sum(l.quantity * l.price)
        FROM orders o JOIN order_lines l ON l.order_id = o.id
        GROUP BY 1 ORDER BY 1;
END
$$;

INSERT INTO customers (name, email) VALUES
    ('Ada Lovelace', 'ada@example.org'),
    ('Grace Hopper', 'grace@example.org'),
    ('Edsger Dijkstra', 'edsger@example.org');

INSERT INTO products (name, price, stock) VALUES
    ('Teapot', 24.90, 40),
    ('Tea cup', 7.50, 200),
    ('Sugar bowl', 12.00, 25),
    ('Tea towel', 5.20, 90);

INSERT INTO orders (customer_id, status, ordered_at) VALUES
    (1, 'sent', now() - interval '40 days'),
    (2, 'paid', now() - interval '3 days'),
    (3, 'new', now());

INSERT INTO order_lines (order_id, product_id, quantity, price) VALUES
    (1, 1, 1, 24.90),
    (1, 2, 6, 7.50),
    (2, 3, 1, 12.00),
    (3, 4, 2, 5.20);
