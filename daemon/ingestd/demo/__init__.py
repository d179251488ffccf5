"""The demo: the whole product on real data, with nothing configured."""
