"""One file for each rule; normscope.check.rule lists them."""
