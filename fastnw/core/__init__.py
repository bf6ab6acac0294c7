"""Problems, sums, plans and the driver, shared by methods and backends. No module here imports a method or backend."""
