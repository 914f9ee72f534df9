"""Pictures of what a scan does and of what a model sees.

    scan_paths    every order drawn over a picture, and ``page``: the same as one HTML page with a size slider
    record        the scans of one run of a model, with the places of their tokens
    attention     a scan as the matrix that it is, and where it writes
    receptive     how far an output sees
    features      the principal components of feature maps
    grad_cam      what speaks for a class
    figure        the panels that all of these are drawn in

``mmvim visualize`` runs them; docs/visualize.md has the commands.
"""
