"""Side by side with other packages: ``python -m benchmarks NAME [--device cuda] [--quick]``.

Every method gets the same problems in one run. Methods take turns, so that a machine that slows down slows all of them;
the figure is the median. Accuracy is measured on the same output as time: a fast wrong answer shows as one.

``benchmarks/requirements.txt`` lists the other packages. They get an environment of their own, and one that is missing
there is reported as missing.
"""
