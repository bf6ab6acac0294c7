"""Arrays and data frames of other libraries, in and out. None of these libraries is imported unless it is in use."""
