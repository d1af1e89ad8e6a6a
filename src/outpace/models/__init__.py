"""The faces of models: text models of files, and those of transformers."""
