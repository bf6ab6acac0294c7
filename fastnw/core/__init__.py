"""Problems, sums and plans, which methods and backends share. No module here imports a method or a backend."""
