"""The calls on live environments, from creation to disposal, each carried out in one order."""
