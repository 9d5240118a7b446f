// One replica of the original: Gin, and a read of raw JSON from Redis for each request.
package main

import (
	"context"
	"net/http"
	"os"
	"strconv"

	"github.com/gin-gonic/gin"
	"github.com/redis/go-redis/v9"
)

func main() {
	port, redisURL := os.Args[1], os.Args[2]
	options, err := redis.ParseURL(redisURL)
	if err != nil {
		panic(err)
	}
	options.PoolSize = 5000
	client := redis.NewClient(options)
	if err := client.Ping(context.Background()).Err(); err != nil {
		panic(err)
	}

	gin.SetMode(gin.ReleaseMode)
	router := gin.New()
	router.Use(gin.Recovery())
	router.GET("/todos", func(c *gin.Context) {
		limit, err := strconv.Atoi(c.DefaultQuery("limit", "10"))
		if err != nil {
			c.Status(http.StatusBadRequest)
			return
		}
		raw, err := client.Get(c.Request.Context(), "todos:limit:"+strconv.Itoa(limit)).Bytes()
		if err != nil {
			c.Status(http.StatusServiceUnavailable)
			return
		}
		// With its length said, nginx has no chunks to take apart.
		c.Header("Content-Length", strconv.Itoa(len(raw)))
		c.Data(http.StatusOK, "application/json", raw)
	})
	if err := router.Run("127.0.0.1:" + port); err != nil {
		panic(err)
	}
}
