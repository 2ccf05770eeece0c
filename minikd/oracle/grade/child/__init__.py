"""What runs in the process of a graded file. It is started as a folder (`python -I -S child`), without minikd."""
