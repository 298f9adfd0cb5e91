"""Model -> model: out of place unless asked, undoable, the state_dict stays loadable."""
