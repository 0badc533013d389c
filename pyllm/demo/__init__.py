"""What `toolkit demo` draws for the shipped model `nano`, and what it says of the results."""
