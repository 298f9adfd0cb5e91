"""What can be read off a live model: one probe a file, each a pure function that leaves the model as it was.

A probe takes the model and a closure. `run()` runs one forward pass and returns anything; `loss()` runs one forward
pass and returns the loss, without calling backward. Both must use the same batch each time that they are called.
"""
