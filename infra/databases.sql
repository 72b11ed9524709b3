-- Beside the database mlflow, which POSTGRES_DB makes.
CREATE DATABASE prefect;
