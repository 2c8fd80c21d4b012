import com.fasterxml.jackson.databind.ObjectMapper;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.UUID;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Sends an image event for each object named: the worker then tags and captions it.
 *
 * <pre>TAGSTREAM_KAFKA_SERVERS=kafka:9092 java -cp 'kafka/libs/*' Produce.java photos 2026/cat.jpg 2026/dog.jpg</pre>
 *
 * A JDK of 17 or newer, and the jars of any Kafka (kafka-clients and jackson-databind are among them). The key of a
 * record is bucket/key, so that all that is said of one object stays in order.
 */
public class Produce {
    public static void main(String[] arguments) throws Exception {
        if (arguments.length < 2) {
            System.err.println("usage: java -cp 'kafka/libs/*' Produce.java BUCKET KEY [KEY ...]");
            System.exit(1);
        }
        String topic = System.getenv().getOrDefault("TOPIC", "images");
        Properties settings = new Properties();
        settings.put("bootstrap.servers", System.getenv("TAGSTREAM_KAFKA_SERVERS"));
        settings.put("enable.idempotence", "true");
        String bucket = arguments[0];
        ObjectMapper json = new ObjectMapper();
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        try (var producer = new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer())) {
            for (String key : List.of(arguments).subList(1, arguments.length)) {
                var event = Map.of(
                        "schema", "image-event/1", "id", UUID.randomUUID().toString(), "bucket", bucket, "key", key);
                sent.add(producer.send(
                        new ProducerRecord<>(topic, bucket + "/" + key, json.writeValueAsString(event))));
            }
        }
        int delivered = 0;
        for (Future<RecordMetadata> each : sent) {
            try {
                each.get();
                delivered++;
            } catch (ExecutionException failed) {
                System.err.println(failed.getCause().getMessage());
            }
        }
        System.out.printf("%d of %d events are in the topic %s%n", delivered, sent.size(), topic);
        System.exit(delivered == sent.size() ? 0 : 1);
    }
}
