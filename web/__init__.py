"""The thin Flask front: takes uploads, queues them, shows and hands out results. It decodes no picture."""
